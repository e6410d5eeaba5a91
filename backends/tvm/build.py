"""From an IRModule to machine code: a shared library with one entry point per batch size."""

from __future__ import annotations

import tempfile
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tvm
from tvm import relax, tirx

from qpc.backends.tvm.elf import link_shared
from qpc.backends.tvm.emitter import Weights
from qpc.backends.tvm.entry import entry_point, lay_out, lower_kernels
from qpc.backends.tvm.lower import LoweredFunction
from qpc.backends.tvm.report import KernelUse
from qpc.backends.tvm.schedule import Schedule, schedule
from qpc.backends.tvm.stopwatch import Stopwatch
from qpc.shapes import TensorType
from qpc.target import Target

TIMED = "_timed"
"""What the name of an entry point ends with that notes the time of each step."""


@dataclass(frozen=True)
class EntryPoint:
    """A function of the shared library; `qpc.backends.tvm.entry` says how it is called.

    weights: names of the constant tensors it reads; outputs: what it writes; arena: bytes of memory
    it needs; steps: the calls of kernels that it makes.
    """

    name: str
    weights: tuple[str, ...]
    outputs: tuple[TensorType, ...]
    arena: int
    steps: tuple[KernelUse, ...]


@dataclass(frozen=True)
class Code:
    """A shared library and its entry points by batch size."""

    library: bytes
    entries: Mapping[int, EntryPoint]


def tvm_target(target: Target) -> tvm.target.Target:
    """`target` in TVM's words. Only explicit features count: `mcpu` could bring more of them."""
    options = {"kind": "llvm", "mtriple": target.triple, "mcpu": "x86-64", "num-cores": 1}
    if target.mattr:
        options["mattr"] = list(target.mattr)
    return tvm.target.Target(options)


def build(
    mod: tvm.IRModule,
    functions: Mapping[int, LoweredFunction],
    weights: Weights,
    target: Target,
    clock: Stopwatch,
) -> Code:
    """Compile every function of `mod`; constants inside them are added to `weights`."""
    chosen = tvm_target(target)
    with chosen, tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        with clock.stage("float operators"):
            mod = _FLOAT_PASSES(mod)
        with clock.stage("kernels to LLVM"):
            kernels = lower_kernels(_prim_funcs(mod), chosen)
        with clock.stage("memory plan"):
            entries, callers = _entries(mod, functions, weights, kernels, chosen)
        objects = [_object_code(part, chosen, clock) for part in (kernels, callers)]
        with clock.stage("link"):
            return Code(link_shared(objects, "qpc_kernels.so"), entries)


def _object_code(mod: tvm.IRModule, target: tvm.target.Target, clock: Stopwatch) -> bytes:
    with clock.stage("kernels to LLVM"):
        compiled = tvm.get_global_func("target.build.llvm")(mod, target)
    with tempfile.TemporaryDirectory(prefix="qpc-") as folder:
        object_file = Path(folder, "code.o")
        with clock.stage("LLVM to machine code"):
            compiled.write_to_file(str(object_file))
        return object_file.read_bytes()


def _prim_funcs(mod: tvm.IRModule) -> tvm.IRModule:
    found = {gv: f for gv, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)}
    return tvm.IRModule(found)


def _entries(
    mod: tvm.IRModule,
    functions: Mapping[int, LoweredFunction],
    weights: Weights,
    kernels: tvm.IRModule,
    target: tvm.target.Target,
) -> tuple[dict[int, EntryPoint], tvm.IRModule]:
    """The entry points, and their code."""
    by_name = {gv.name_hint: function for gv, function in kernels.functions_items()}
    code, entries = {}, {}
    for batch, function in functions.items():
        names = list(function.weights)

        def constant(value: tvm.runtime.Tensor, names: list[str] = names) -> int:
            names.append(weights.add(torch.from_numpy(value.numpy().copy())))
            return len(names) - 1

        planned = schedule(mod[function.name], function.inputs, constant)
        layout = lay_out(planned, by_name)
        for timed in (False, True):
            name = function.name + TIMED * timed
            code[tvm.ir.GlobalVar(name)] = entry_point(
                name,
                layout,
                by_name,
                inputs=function.inputs,
                weights=len(names),
                target=target,
                timed=timed,
            )
        steps = tuple(_described(planned, function.kernels))
        entries[batch] = EntryPoint(
            function.name, tuple(names), function.outputs, layout.plan.size, steps
        )
    return entries, tvm.IRModule(code)


def _described(planned: Schedule, uses: Sequence[KernelUse]) -> Iterator[KernelUse]:
    """What is known about each step; the uses of a kernel are noted in their order."""
    waiting: defaultdict[str, deque[KernelUse]] = defaultdict(deque)
    for use in uses:
        waiting[use.kernel].append(use)
    for step in planned.steps:
        known = waiting[step.kernel]
        use = known.popleft() if known else KernelUse(step.kernel, ())
        yield replace(use, bytes=sum(piece.size for piece in (*step.inputs, *step.outputs)))


# Reshapes stay what they are, views of the same memory: as kernels they would copy.
_FLOAT_PASSES = tvm.transform.Sequential(
    [
        relax.backend.DispatchSampling(),
        relax.backend.DispatchSortScan(),
        relax.transform.LegalizeOps(skip_ops=["relax.reshape"]),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
)
