"""Data movement as one kernel: copy boxes of elements from strided places to strided places.

Transpose, slice, concatenation, padding, flip, roll and expand are all a list of `Piece`s. Shapes
and axes here are physical.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod

from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import Flat, Index, copy, fill, loop, prim_func
from qpc.backends.tvm.kernels.geometry import View
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType, kernel_name
from qpc.backends.tvm.kernels.loops import contiguous_strides

Shape = tuple[int, ...]
_PARALLEL_ELEMENTS = 1 << 16  # below this, starting threads costs more than they save


@dataclass(frozen=True)
class Piece:
    """A box of `extents` elements; strides and offsets count elements of the flat tensors."""

    source: int
    extents: Shape
    source_offset: int
    source_strides: Shape
    target_offset: int
    target_strides: Shape

    def simplified(self) -> Piece:
        """The same copy with as few axes as possible."""
        axes = [
            axis
            for axis in zip(self.extents, self.source_strides, self.target_strides, strict=True)
            if axis[0] != 1
        ]
        merged: list[tuple[int, int, int]] = []
        for extent, source, target in axes:
            if merged and merged[-1][1:] == (source * extent, target * extent):
                extent *= merged.pop()[0]
            merged.append((extent, source, target))
        extents, sources, targets = zip(*(merged or [(1, 1, 1)]), strict=True)
        return Piece(self.source, extents, self.source_offset, sources, self.target_offset, targets)


@dataclass(frozen=True)
class Movement:
    """What is copied where; elements that no piece covers are set to `fill`."""

    operation: str
    sources: tuple[TensorType, ...]
    target: TensorType
    pieces: tuple[Piece, ...]
    fill: int | None = None

    @property
    def others(self) -> int:
        """How many elements of the target it leaves alone."""
        covered = sum(prod(piece.extents) for piece in self.pieces)
        return self.target.size - covered if self.fill is None else 0

    def kernel(self, threads: int) -> Kernel:
        """The kernel that does it."""
        movement = Movement(
            self.operation,
            self.sources,
            self.target,
            tuple(p.simplified() for p in self.pieces if prod(p.extents)),
            self.fill,
        )
        name = kernel_name(self.operation, movement, threads)

        def body(*buffers: Flat) -> None:
            *sources, target = buffers
            if movement.fill is not None:
                value = T.IntImm(movement.target.dtype, movement.fill)
                fill(target, 0, value, movement.target.size)
            for piece in movement.pieces:
                _emit_piece(piece, sources[piece.source], target, threads)

        func = prim_func(name, [*self.sources, self.target], body)
        return Kernel(name, func, self.sources, (), self.target)


def transpose(source: TensorType, order: Sequence[int]) -> Movement:
    """`numpy.transpose(x, order)`."""
    strides = contiguous_strides(source.shape)
    shape = tuple(source.shape[axis] for axis in order)
    piece = _to_whole(shape, 0, 0, tuple(strides[axis] for axis in order))
    return _one("transpose", source, shape, piece)


def concatenate(sources: Sequence[TensorType], axis: int) -> Movement:
    """Tensors one after the other along an axis."""
    shape = list(sources[0].shape)
    shape[axis] = sum(s.shape[axis] for s in sources)
    strides = contiguous_strides(tuple(shape))
    starts = itertools.accumulate((s.shape[axis] for s in sources), initial=0)
    pieces = tuple(
        Piece(i, s.shape, 0, contiguous_strides(s.shape), start * strides[axis], strides)
        for i, (s, start) in enumerate(zip(sources, starts, strict=False))
    )
    target = TensorType(tuple(shape), sources[0].dtype)
    return Movement("concatenate", tuple(sources), target, pieces)


def place(sources: Sequence[tuple[int, View]], target: TensorType) -> Movement:
    """Values into a tensor, each from an index of its last axis on; other axes are equal."""
    strides = contiguous_strides(target.shape)
    pieces = tuple(
        Piece(i, view.shape, view.first, view.strides, first, strides)
        for i, (first, view) in enumerate(sources)
    )
    return Movement("place", tuple(view.type for _, view in sources), target, pieces)


def interleave(
    sources: Mapping[tuple[int, ...], TensorType], steps: Sequence[int], target: TensorType
) -> Movement:
    """Tensors into every `steps`-th place of the axes of the target, each from its first place on.

    Sources reach at least to the end of the target, and together they fill it.
    """
    strides = contiguous_strides(target.shape)
    pieces = tuple(
        Piece(
            i,
            tuple(
                -(-(size - f) // step)
                for size, f, step in zip(target.shape, first, steps, strict=True)
            ),
            0,
            contiguous_strides(source.shape),
            sum(f * stride for f, stride in zip(first, strides, strict=True)),
            tuple(step * stride for step, stride in zip(steps, strides, strict=True)),
        )
        for i, (first, source) in enumerate(sources.items())
    )
    return Movement("interleave", tuple(sources.values()), target, pieces)


def strided_slice(
    source: TensorType, starts: Sequence[int], steps: Sequence[int], shape: Shape
) -> Movement:
    """`shape` elements from `starts` on, `steps` apart; steps may be negative or zero (repeat)."""
    strides = contiguous_strides(source.shape)
    offset = sum(start * stride for start, stride in zip(starts, strides, strict=True))
    stepped = tuple(step * stride for step, stride in zip(steps, strides, strict=True))
    return _one("slice", source, shape, _to_whole(shape, 0, offset, stepped))


def pad(source: TensorType, before: Sequence[int], after: Sequence[int], value: int) -> Movement:
    """Add `before` and `after` elements of `value` to every axis; negative numbers remove."""
    shape = tuple(
        size + low + high for size, low, high in zip(source.shape, before, after, strict=True)
    )
    source_strides, target_strides = contiguous_strides(source.shape), contiguous_strides(shape)
    extents = tuple(
        max(0, size + min(low, 0) + min(high, 0))
        for size, low, high in zip(source.shape, before, after, strict=True)
    )
    piece = Piece(
        0,
        extents,
        sum(max(-low, 0) * stride for low, stride in zip(before, source_strides, strict=True)),
        source_strides,
        sum(max(low, 0) * stride for low, stride in zip(before, target_strides, strict=True)),
        target_strides,
    )
    return Movement("pad", (source,), TensorType(shape, source.dtype), (piece,), fill=value)


def roll(source: TensorType, shifts: Mapping[int, int]) -> Movement:
    """Rotate axes: element `i` goes to `(i + shift) % size`."""
    strides = contiguous_strides(source.shape)
    # Each rotated axis falls into a part that moves up and a part that wraps around to the start.
    parts = [
        [(0, s % size, size - s % size), (size - s % size, 0, s % size)]
        if (s := shifts.get(axis, 0)) % max(size, 1)
        else [(0, 0, size)]
        for axis, size in enumerate(source.shape)
    ]
    pieces = tuple(
        Piece(
            0,
            tuple(extent for _, _, extent in box),
            sum(start * stride for (start, _, _), stride in zip(box, strides, strict=True)),
            strides,
            sum(goal * stride for (_, goal, _), stride in zip(box, strides, strict=True)),
            strides,
        )
        for box in itertools.product(*parts)
    )
    return Movement("roll", (source,), source, pieces)


def _one(operation: str, source: TensorType, shape: Shape, piece: Piece) -> Movement:
    return Movement(operation, (source,), TensorType(shape, source.dtype), (piece,))


def _to_whole(shape: Shape, source: int, offset: int, strides: Shape) -> Piece:
    return Piece(source, shape, offset, strides, 0, contiguous_strides(shape))


def _emit_piece(piece: Piece, source: Flat, target: Flat, threads: int) -> None:
    contiguous = piece.source_strides[-1] == piece.target_strides[-1] == 1
    outer = len(piece.extents) - contiguous
    parallel = threads > 1 and prod(piece.extents) >= _PARALLEL_ELEMENTS
    with ExitStack() as loops:
        indices = [
            loops.enter_context(loop(extent, parallel=parallel and axis == 0))
            for axis, extent in enumerate(piece.extents[:outer])
        ]
        to = _dot(piece.target_offset, indices, piece.target_strides)
        come = _dot(piece.source_offset, indices, piece.source_strides)
        copy(target, to, source, come, piece.extents[-1] if contiguous else 1)


def _dot(start: int, indices: Sequence[Index], strides: Sequence[int]) -> Index:
    """The offset of an element; there may be more strides than indices."""
    total: Index = start
    for index, stride in zip(indices, strides, strict=False):
        total = total + index * stride
    return total
