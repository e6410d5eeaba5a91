"""From an IRModule to machine code: a shared library with one entry point per batch size."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias, TypeVar

import torch
import tvm
from tvm import relax, tirx

from qpc.backends.common.plan import KernelUse, Step
from qpc.backends.tvm.codegen.cache import KernelCache, say_once
from qpc.backends.tvm.codegen.elementwise import join_loops
from qpc.backends.tvm.codegen.elf import link_shared
from qpc.backends.tvm.codegen.entry import Call, EntryPlan, EntryWriter
from qpc.backends.tvm.codegen.layout import lay_out
from qpc.backends.tvm.codegen.machines import MACHINES
from qpc.backends.tvm.codegen.objects import CODEGEN_OPTIONS, kernel_code, tvm_target
from qpc.backends.tvm.codegen.schedule import schedule
from qpc.backends.tvm.codegen.sharing import shares_work, sharing_code
from qpc.backends.tvm.codegen.tir_entry import TirEntryWriter
from qpc.backends.tvm.lowering.emitter import Weights
from qpc.backends.tvm.lowering.float_arithmetic import LEGALIZED
from qpc.backends.tvm.lowering.lower import LoweredFunction
from qpc.backends.tvm.runtime.code import Code, EntryPoint
from qpc.backends.tvm.stopwatch import Stopwatch
from qpc.errors import UnsupportedTargetError
from qpc.runtime.seal import BLANK_NAME
from qpc.targets import Target

T = TypeVar("T")

ENTRY_WRITERS: Mapping[str, EntryWriter] = {"elf": TirEntryWriter()}
"""By the object format of a target."""


@dataclass(frozen=True)
class Pieces:
    """Kernels as object files, entry points by batch size, and what their functions do."""

    kernels: tuple[bytes, ...]
    entries: Mapping[int, EntryPoint]
    plans: tuple[EntryPlan, ...]


_Finish: TypeAlias = Callable[[Pieces, KernelCache], T]


def build(
    mod: tvm.IRModule,
    functions: Mapping[int, LoweredFunction],
    weights: Weights,
    target: Target,
    clock: Stopwatch,
    cache: KernelCache,
) -> Code:
    """Compile every function of `mod`; constants inside them are added to `weights`.

    Raises UnsupportedTargetError for a target whose code cannot be linked here.
    """
    machine = MACHINES.get(target.architecture.name)
    if machine is None or target.object_format not in ENTRY_WRITERS:
        raise UnsupportedTargetError(
            f"code for {target.name!r} can be exported, but not loaded by Python yet",
            fix="qpc.export_library(gm, target, folder, name=...) writes a library for C programs",
        )

    def linked(pieces: Pieces, cache: KernelCache) -> Code:
        with clock.stage("entry points"):
            caller = ENTRY_WRITERS[target.object_format].write(pieces.plans, target, cache)
        cache.trim()
        with clock.stage("link"):
            objects = [*pieces.kernels, caller]
            if any(map(shares_work, objects)):
                objects.insert(0, sharing_code(target, cache))  # the first of two definitions
            library = link_shared(objects, BLANK_NAME, machine, target.libraries)
            return Code(library, pieces.entries)

    return finished(mod, functions, weights, target, clock, cache, linked)


def finished(
    mod: tvm.IRModule,
    functions: Mapping[int, LoweredFunction],
    weights: Weights,
    target: Target,
    clock: Stopwatch,
    cache: KernelCache,
    finish: _Finish[T],
) -> T:
    """What `finish` makes of the pieces of a program.

    If it fails on kernels that were kept, they are compiled anew.
    """
    chosen = tvm_target(target)
    with chosen, tvm.transform.PassContext(opt_level=3, config=CODEGEN_OPTIONS):
        with clock.stage("float operators"):
            mod = join_loops(_FLOAT_PASSES(mod), vectors=target.vector_lanes > 1)
        try:
            return finish(_pieces(mod, functions, weights, target, clock, cache), cache)
        except Exception as e:  # whatever comes up in a file that is not what it should be
            if not cache.found:
                raise
            failure = e
        renewed = cache.renewed()
        made = finish(_pieces(mod, functions, weights, target, clock, renewed), renewed)
        say_once(f"kernels that were kept do not fit together, and were made again: {failure}")
        return made


def _pieces(
    mod: tvm.IRModule,
    functions: Mapping[int, LoweredFunction],
    weights: Weights,
    target: Target,
    clock: Stopwatch,
    cache: KernelCache,
) -> Pieces:
    """Kernels, made or found in the cache, and the plans of what calls them."""
    prim_funcs = {gv: f for gv, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)}
    chosen = tvm_target(target)
    with clock.stage("kernels"):
        kernels = kernel_code(prim_funcs, chosen, cache)
    scratch = {name: size for kernel in kernels for name, size in kernel.scratch.items()}
    with clock.stage("memory plan"):
        entries, plans = _entries(mod, functions, weights, scratch, target)
    return Pieces(tuple(kernel.code for kernel in kernels), entries, tuple(plans))


def _entries(
    mod: tvm.IRModule,
    functions: Mapping[int, LoweredFunction],
    weights: Weights,
    scratch: Mapping[str, int],
    target: Target,
) -> tuple[dict[int, EntryPoint], list[EntryPlan]]:
    """The entry points, and what their functions do."""
    entries: dict[int, EntryPoint] = {}
    plans: list[EntryPlan] = []
    for batch, function in functions.items():
        names = list(function.weights)

        def constant(value: tvm.runtime.Tensor, names: list[str] = names) -> int:
            names.append(weights.add(torch.from_numpy(value.numpy().copy())))
            return len(names) - 1

        planned = schedule(mod[function.name], function.inputs, constant)
        plan = lay_out(
            function.name,
            planned,
            scratch,
            batch=batch,
            inputs=function.inputs,
            weights=len(names),
        )
        plans += [plan, plan.with_times] if target.counter else [plan]
        steps = tuple(_described(plan.calls, function.kernels))
        entries[batch] = EntryPoint(
            function.name, tuple(names), function.outputs, plan.arena, steps, len(steps)
        )
    return entries, plans


def _described(calls: Sequence[Call], uses: Sequence[KernelUse]) -> Iterator[Step]:
    """What is known about each step; the uses of a kernel are noted in their order."""
    waiting: defaultdict[str, deque[KernelUse]] = defaultdict(deque)
    for use in uses:
        waiting[use.kernel].append(use)
    for call in calls:
        known = waiting[call.kernel]
        use = known.popleft() if known else KernelUse(call.kernel, ())
        about = {field.name: getattr(use, field.name) for field in fields(use)}
        # Noted so far is, as a negative number, what the kernel leaves alone of its tensors.
        about["bytes"] += sum(place.size for place in (*call.reads, *call.writes))
        yield Step(**about, reads=call.reads, writes=call.writes, scratch=call.scratch)


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
