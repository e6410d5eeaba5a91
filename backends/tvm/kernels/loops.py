"""Loop nests over whole tensors: merge dimensions, then run vectors along the last one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from math import prod

from qpc.backends.tvm.kernels.emit import Index, loop, powers_of_two, split

_MIN_PARALLEL = 1 << 15  # elements; below that, waking threads costs more than it saves


@dataclass(frozen=True)
class Box:
    """A loop nest: its extents, and for each operand the stride of every loop, in elements."""

    extents: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, extents: Sequence[int], *strides: Sequence[int]) -> Box:
        """The loops over `extents`, without those of one round, neighbours merged if possible."""
        merged: list[tuple[int, tuple[int, ...]]] = []
        for extent, *steps in zip(extents, *strides, strict=True):
            if extent == 1:
                continue
            if merged:
                outer, outer_steps = merged[-1]
                if all(a == b * extent for a, b in zip(outer_steps, steps, strict=True)):
                    merged[-1] = (outer * extent, tuple(steps))
                    continue
            merged.append((extent, tuple(steps)))
        merged = merged or [(1, (1,) * len(strides))]
        by_operand = zip(*(steps for _, steps in merged), strict=True)
        return cls(tuple(extent for extent, _ in merged), tuple(by_operand))

    @property
    def last_strides(self) -> tuple[int, ...]:
        """The stride of the last loop, for each operand."""
        return tuple(strides[-1] for strides in self.strides)


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor in row-major order, in elements."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def broadcast_strides(
    shape: Sequence[int], strides: Sequence[int], to: Sequence[int]
) -> tuple[int, ...]:
    """Strides to walk a tensor of `shape` as if it had the shape `to`; numpy's rules."""
    missing = len(to) - len(shape)
    return (0,) * missing + tuple(
        0 if extent == 1 else stride for extent, stride in zip(shape, strides, strict=True)
    )


def for_each_vector(
    box: Box, lanes: int, threads: int, emit: Callable[[list[Index], int], None]
) -> None:
    """Call `emit(offsets of operands, lanes)` for vectors of up to `lanes` along the last loop."""
    *outer, last = box.extents
    parallel = threads > 1 and prod(box.extents) >= _MIN_PARALLEL
    whole, rest = divmod(last, lanes)
    widths = powers_of_two(rest)  # of other vectors LLVM makes shuffles
    left = list(zip(accumulate(widths[:-1], initial=whole * lanes), widths, strict=False))
    if not outer and parallel:
        # One long row: parallel over vectors.
        with loop(whole, parallel=True) as i:
            emit([i * lanes * step for step in box.last_strides], lanes)
        for place, width in left:
            emit([place * step for step in box.last_strides], width)
        return
    with ExitStack() as stack:
        indices = outer_indices(stack, outer, parallel)
        starts = [
            sum((i * step for i, step in zip(indices, steps[:-1], strict=True)), 0)
            for steps in box.strides
        ]
        if whole:
            with loop(whole) as i:
                emit(_moved(starts, box.last_strides, i * lanes), lanes)
        for place, width in left:
            emit(_moved(starts, box.last_strides, place), width)


def outer_indices(stack: ExitStack, extents: Sequence[int], parallel: bool) -> list[Index]:
    """Enter loops over `extents`, as one parallel loop or as nested serial ones."""
    if parallel and prod(extents) > 1:
        return split(stack.enter_context(loop(prod(extents), parallel=True)), *extents)
    return [stack.enter_context(loop(extent)) for extent in extents]


def _moved(starts: Sequence[Index], strides: Sequence[int], by: Index) -> list[Index]:
    return [start + by * step for start, step in zip(starts, strides, strict=True)]
