"""Loops of elementwise float operators, joined where their values lie side by side.

TVM writes one loop for each axis, and one nest for each operator of a fused function. LLVM unrolls
an inner loop of 40 passes or fewer before it looks for vectors, and finds none then: an addition of
images with 24 channels last takes ten times as long as one of 48. So what one operator makes for
the next is put in its place, and axes are joined that follow each other in every tensor. Where few
values lie side by side all the same, as in a product with 24 channels, they are made vectors here,
of powers of two: of others LLVM makes shuffles.

TVM also makes a branch of every choice whose values are read from memory, which leaves LLVM no
vectors if one of them is of a tensor that is broadcast. So what a choice needs is read before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from qpc.backends.tvm.kernels.emit import powers_of_two
from qpc.backends.tvm.kernels.kernel import PREFIX
from qpc.backends.tvm.lowering.float_arithmetic import HIDING, hidden, shown

_MOST_READS = 16
"""What is read several times, and itself reads more than that, is not written several times."""
_BRANCH = tvm.ir.Op.get("prim.if_then_else")
_INSTRUCTIONS = ("ceil", "fabs", "floor", "nearbyint", "round", "rsqrt", "sqrt", "trunc")
_OF_VECTORS = HIDING.union(f"tirx.{name}" for name in _INSTRUCTIONS)
"""What is called with vectors; of other functions there is one value at a time in any case."""
_LONGEST_ROW = 64
"""LLVM finds vectors in longer rows."""
_SHORTEST_ROW = 9
"""Of shorter ones it takes several at a time."""
_WIDEST = 16
"""Lanes of the vectors made here; LLVM makes several of one where a target has fewer."""


def join_loops(mod: tvm.IRModule, vectors: bool = False) -> tvm.IRModule:
    """The same program, in which elementwise functions that TVM made have the fewest loops.

    vectors: short rows are to become vectors.
    """
    joined = tvm.IRModule(mod.functions, attrs=mod.attrs)
    for gv, function in mod.functions_items():
        ours = str(gv.name_hint).startswith(PREFIX)
        if isinstance(function, tirx.PrimFunc) and not ours:
            joined.update_func(gv, _joined(function, vectors))
    return joined


def _joined(function: tirx.PrimFunc, vectors: bool) -> tirx.PrimFunc:
    """A function with the fewest loops; as it is, if it does more than operate value by value."""
    schedule = s_tir.Schedule(tvm.IRModule({"main": hidden(function)}))
    try:
        blocks = list(schedule.get_child_blocks(schedule.get_sblock("root")))
        if any(_axes(schedule.get(block)) is None for block in blocks):
            return function
        kept = _kept([schedule.get(block) for block in blocks])
        for i, block in enumerate(blocks):
            if i not in kept:
                schedule.compute_inline(block)
        for block in (blocks[i] for i in kept):
            accesses = _axes(schedule.get(block))
            if accesses is None:  # what was put in its place reads elsewhere
                return function
            _join_axes(schedule, block, accesses)
            if vectors and _is_row(schedule.get(block), accesses):
                _make_vectors(schedule, block)
    except s_tir.ScheduleError:  # it is of another form
        return function
    made = shown(schedule.mod["main"])
    store = (tirx.BufferStore, _with_reads_first)
    return made.with_body(tvm_ffi.structural_map(made.body, store, order="post"))


def _kept(blocks: Sequence[Any]) -> list[int]:
    """Which blocks are not put in the place of their results: the last, and those that grow.

    What is read several times is written as often. In a chain of operators that each read their
    value twice that doubles with every one.
    """
    reads = [_reads(block) for block in blocks]
    uses = Counter(buffer for each in reads for buffer in each)
    sizes: dict[str, int] = {}
    kept = []
    for i, block in enumerate(blocks):
        (written,) = (access.source.name for access in block.writes)
        size = 1 + sum(sizes.get(buffer, 1) for buffer in reads[i])
        is_kept = i + 1 == len(blocks) or (size > _MOST_READS and uses[written] > 1)
        sizes[written] = 1 if is_kept else size
        kept += [i] * is_kept
    return kept


def _reads(block: Any) -> list[str]:
    """The names of the buffers that a block reads, as often as it does."""
    found: list[str] = []
    load = (tvm.ir.TensorLoad, lambda load: found.append(load.source.name))
    tvm_ffi.structural_walk(block.body, load)
    return found


def _with_reads_first(store: Any) -> Any:
    """A store after what its choices read, unless there is a branch: that may guard the borders."""
    if _has_branch(store.value):
        return store
    reads: list[tuple[tirx.Var, Any]] = []

    def named(load: Any) -> tirx.Var:
        for var, known in reads:
            if tvm_ffi.structural_equal(known, load):
                return var
        reads.append((tirx.Var(f"read{len(reads)}", load.ty), load))
        return reads[-1][0]

    def chosen(select: Any) -> Any:
        return tvm_ffi.structural_map(select, (tvm.ir.TensorLoad, named), order="post")

    value = tvm_ffi.structural_map(store.value, (tirx.Select, chosen), order="post")
    if not reads:
        return store
    last = tirx.BufferStore(store.buffer, value, store.indices)
    return tirx.SeqStmt([*(tirx.Bind(var, load) for var, load in reads), last])


def _has_branch(expression: Any) -> bool:
    """Whether part of an expression is not always computed, as at the borders of a padding."""
    found = []

    def look(call: Any) -> None:
        if call.op.same_as(_BRANCH):
            found.append(call)

    tvm_ffi.structural_walk(expression, (tvm.ir.Call, look))
    return bool(found)


_Accesses = Sequence[tuple[dict[int, int], list[int]]]


def _join_axes(schedule: s_tir.Schedule, block: Any, accesses: _Accesses) -> None:
    """Join all loops of a block that may be."""
    loops = list(schedule.get_loops(block))
    extents = [int(schedule.get(loop).extent) for loop in loops]
    runs: list[list[int]] = []
    for axis in range(len(loops)):
        if runs and _follow(accesses, runs[-1][-1], axis, extents):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    for run in runs:
        if len(run) > 1:
            schedule.fuse(*(loops[axis] for axis in run))


def _is_row(block: Any, accesses: _Accesses) -> bool:
    """Whether what a block reads and writes lies side by side, and can be computed as vectors."""
    last = len(block.iter_vars) - 1
    if any(last in places and places[last] + 1 != len(shape) for places, shape in accesses):
        return False
    if any(access.source.dtype != "float32" for access in (*block.reads, *block.writes)):
        return False
    called: set[str] = set()
    tvm_ffi.structural_walk(block.body, (tvm.ir.Call, lambda call: called.add(str(call.op.name))))
    return called <= _OF_VECTORS


def _make_vectors(schedule: s_tir.Schedule, block: Any) -> None:
    """Make vectors of the last loop of a block, if LLVM would make none."""
    loops = list(schedule.get_loops(block))
    if not loops:  # a single value
        return
    row = loops[-1]
    extent = int(schedule.get(row).extent)
    if not _SHORTEST_ROW <= extent <= _LONGEST_ROW:
        return
    widths = powers_of_two(extent, _WIDEST)
    parts = schedule.loop_partition(row, [*widths[:-1], None]) if len(widths) > 1 else [row]
    for part, width in zip(parts, widths, strict=True):
        if width > 1:
            schedule.vectorize(part)


def _follow(accesses: _Accesses, a: int, b: int, extents: Sequence[int]) -> bool:
    """Whether axis `b` of a block is behind axis `a` wherever one of them is read or written."""
    for places, shape in accesses:
        if a not in places and b not in places:
            continue
        if b not in places or places.get(a) != places[b] - 1 or shape[places[b]] != extents[b]:
            return False
    return True


def _axes(block: Any) -> list[tuple[dict[int, int], list[int]]] | None:
    """For each access of a block: where the block's axes are among the buffer's, and its shape.

    None if a block reduces, or reads or writes anything but single values by its axes.
    """
    axes = [axis.var for axis in block.iter_vars]
    if any(int(axis.iter_type) != tirx.IterVar.DataPar for axis in block.iter_vars):
        return None
    found = []
    for access in (*block.reads, *block.writes):
        places: dict[int, int] = {}
        for place, span in enumerate(access.region):
            if not isinstance(span.extent, tirx.IntImm) or int(span.extent) != 1:
                return None
            if isinstance(span.min, tirx.IntImm):
                continue
            axis = next((i for i, var in enumerate(axes) if var.same_as(span.min)), None)
            if axis is None or axis in places:
                return None
            places[axis] = place
        found.append((places, [int(size) for size in access.source.shape]))
    return found
