"""From an IRModule to machine code: a shared library with one entry point per batch size."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
import tvm
from tvm import relax, tirx
from tvm.target.codegen import llvm_get_cpu_features

from qpc.backends.common.plan import KernelUse, Step
from qpc.backends.tvm.codegen.cache import KernelCache, say_once
from qpc.backends.tvm.codegen.elf import link_shared
from qpc.backends.tvm.codegen.entry import Layout, entry_point, lay_out
from qpc.backends.tvm.codegen.machines import MACHINES
from qpc.backends.tvm.codegen.objects import CODEGEN_OPTIONS, entry_code, kernel_code
from qpc.backends.tvm.codegen.schedule import schedule
from qpc.backends.tvm.lowering.emitter import Weights
from qpc.backends.tvm.lowering.float_arithmetic import LEGALIZED
from qpc.backends.tvm.lowering.lower import LoweredFunction
from qpc.backends.tvm.runtime.seal import BLANK_NAME
from qpc.backends.tvm.stopwatch import Stopwatch
from qpc.errors import UnsupportedTargetError
from qpc.targets import Target
from qpc.types import TensorType

TIMED = "_timed"
"""What the name of an entry point ends with that notes the time of each step."""


@dataclass(frozen=True)
class EntryPoint:
    """A function of the shared library; `qpc.backends.tvm.codegen.entry` says how it is called.

    weights: names of the constant tensors it reads; outputs: what it writes; arena: bytes of memory
    it needs; steps: the calls of kernels that it makes, with their memory.
    """

    name: str
    weights: tuple[str, ...]
    outputs: tuple[TensorType, ...]
    arena: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Code:
    """A shared library and its entry points by batch size."""

    library: bytes
    entries: Mapping[int, EntryPoint]


def tvm_target(target: Target) -> tvm.target.Target:
    """`target` in TVM's words, of which it says every one.

    Raises UnsupportedTargetError for features that LLVM does not know, which it would leave out.
    """
    options = {"kind": "llvm", "mtriple": target.triple, "mcpu": target.llvm_cpu, "num-cores": 1}
    if target.mattr:
        options["mattr"] = list(target.mattr)
    if target.abi is not None:
        options["mfloat-abi"] = target.abi
    made = tvm.target.Target(options)
    if unknown := set(target.features) - set(map(str, llvm_get_cpu_features(made))):
        raise UnsupportedTargetError(
            f"LLVM knows no features {', '.join(sorted(unknown))} of target {target.name!r}",
            fix="use LLVM's names of features",
        )
    return made


def build(
    mod: tvm.IRModule,
    functions: Mapping[int, LoweredFunction],
    weights: Weights,
    target: Target,
    clock: Stopwatch,
    cache: KernelCache,
) -> Code:
    """Compile every function of `mod`; constants inside them are added to `weights`."""
    chosen = tvm_target(target)
    with chosen, tvm.transform.PassContext(opt_level=3, config=CODEGEN_OPTIONS):
        with clock.stage("float operators"):
            mod = _FLOAT_PASSES(mod)
        try:
            return _linked(mod, functions, weights, target, clock, cache)
        except Exception as e:  # whatever comes up in a file that is not what it should be
            if not cache.found:
                raise
            failure = e
        code = _linked(mod, functions, weights, target, clock, cache.renewed())
        say_once(f"kernels that were kept do not fit together, and were made again: {failure}")
        return code


def _linked(
    mod: tvm.IRModule,
    functions: Mapping[int, LoweredFunction],
    weights: Weights,
    target: Target,
    clock: Stopwatch,
    cache: KernelCache,
) -> Code:
    """Kernels and entry points, made or found in the cache, as one library."""
    prim_funcs = {gv: f for gv, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)}
    chosen = tvm_target(target)
    with clock.stage("kernels"):
        kernels = kernel_code(prim_funcs, chosen, cache)
    scratch = {name: size for kernel in kernels for name, size in kernel.scratch.items()}
    with clock.stage("memory plan"):
        entries, callers = _entries(mod, functions, weights, scratch, target)
    with clock.stage("entry points"):
        caller = entry_code(callers, chosen, cache)
    cache.trim()
    with clock.stage("link"):
        objects = [*(kernel.code for kernel in kernels), caller]
        machine = MACHINES[target.architecture.name]
        library = link_shared(objects, BLANK_NAME, machine, target.libraries)
        return Code(library, entries)


def _entries(
    mod: tvm.IRModule,
    functions: Mapping[int, LoweredFunction],
    weights: Weights,
    scratch: Mapping[str, int],
    target: Target,
) -> tuple[dict[int, EntryPoint], dict[tvm.ir.GlobalVar, tirx.PrimFunc]]:
    """The entry points, and their functions."""
    code, entries = {}, {}
    for batch, function in functions.items():
        names = list(function.weights)

        def constant(value: tvm.runtime.Tensor, names: list[str] = names) -> int:
            names.append(weights.add(torch.from_numpy(value.numpy().copy())))
            return len(names) - 1

        planned = schedule(mod[function.name], function.inputs, constant)
        layout = lay_out(planned, scratch)
        for timed in (False, True) if target.counter else (False,):
            name = function.name + TIMED * timed
            code[tvm.ir.GlobalVar(name)] = entry_point(
                name,
                layout,
                inputs=function.inputs,
                weights=len(names),
                target=tvm_target(target),
                counter=target.counter if timed else None,
            )
        steps = tuple(_described(layout, function.kernels))
        entries[batch] = EntryPoint(
            function.name, tuple(names), function.outputs, layout.arena.size, steps
        )
    return entries, code


def _described(layout: Layout, uses: Sequence[KernelUse]) -> Iterator[Step]:
    """What is known about each step; the uses of a kernel are noted in their order."""
    waiting: defaultdict[str, deque[KernelUse]] = defaultdict(deque)
    for use in uses:
        waiting[use.kernel].append(use)
    for call, scratch in zip(layout.schedule.steps, layout.scratch, strict=True):
        known = waiting[call.kernel]
        use = known.popleft() if known else KernelUse(call.kernel, ())
        touched = sum(memory.size for memory in (*call.inputs, *call.outputs))
        reads, writes = (tuple(map(layout.place, m)) for m in (call.inputs, call.outputs))
        about = {field.name: getattr(use, field.name) for field in fields(use)}
        # Noted so far is, as a negative number, what the kernel leaves alone of its tensors.
        about["bytes"] += touched
        yield Step(**about, reads=reads, writes=writes, scratch=scratch)


# Reshapes stay what they are, views of the same memory: as kernels they would copy.
_FLOAT_PASSES = tvm.transform.Sequential(
    [
        relax.backend.DispatchSampling(),
        relax.backend.DispatchSortScan(),
        relax.transform.LegalizeOps(LEGALIZED, skip_ops=["relax.reshape"]),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
)
