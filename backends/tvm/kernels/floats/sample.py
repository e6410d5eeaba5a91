"""Samples of float32 images at places that are computed, as `torch.nn.functional.grid_sample` does.

For a row of samples, where the four pixels around each lie and what they count is written down
once, for all channels. A pixel outside of the image has no place, and counts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    float32,
    integer,
    loop_between,
    prim_func,
    scratch,
    split,
    tasks,
)
from qpc.backends.tvm.kernels.floats.functions import Functions
from qpc.backends.tvm.kernels.floats.product import worthwhile
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType, kernel_name

BILINEAR, NEAREST = 0, 1
ZEROS, BORDER, REFLECTION = 0, 1, 2
"""What is beyond the borders; these numbers are PyTorch's."""

_WORK = 16  # instructions for a sample
_NOWHERE = -1
_NUMBER = Functions(1).number


@dataclass(frozen=True)
class SampleDesc:
    """x[n, channels, *size] at grid[n, *out, 2], whose last axis is column and row, from -1 to 1.

    mode, padding: the constants above. aligned: whether -1 and 1 are the centres of the outermost
    pixels, and not their outer edges.
    """

    n: int
    channels: int
    size: tuple[int, int]
    out: tuple[int, int]
    mode: int
    padding: int
    aligned: bool

    @property
    def taps(self) -> int:
        """How many pixels make a sample."""
        return 4 if self.mode == BILINEAR else 1


def sample(isa: Isa, desc: SampleDesc, threads: int = 1) -> Kernel:
    """The kernel; its result is [n, channels, *out]. Places that are NaN are outside, or 0."""
    samples = desc.n * desc.channels * prod(desc.out)
    name, func = _function(isa, desc, worthwhile(isa, threads, samples * _WORK))
    x, grid, out = _types(desc)
    return Kernel(name, func, (x, grid), (), out)


def _types(desc: SampleDesc) -> tuple[TensorType, TensorType, TensorType]:
    shapes = (
        (desc.n, desc.channels, *desc.size),
        (desc.n, *desc.out, 2),
        (desc.n, desc.channels, *desc.out),
    )
    x, grid, out = (TensorType(shape, "float32") for shape in shapes)
    return x, grid, out


@cache
def _function(isa: Isa, desc: SampleDesc, threads: int) -> tuple[str, PrimFunc]:
    rows, columns = desc.out
    room = desc.taps * columns

    def body(x: Flat, grid: Flat, out: Flat) -> None:
        places = scratch(threads * room, "int32")
        shares = scratch(threads * room, "float32")
        with tasks(desc.n * rows, threads) as (worker, task):
            image, row = split(task, desc.n, rows)
            start = bind(worker * room)
            code = _Row(desc, places.part(start), shares.part(start))
            with loop_between(0, columns) as column:
                at = bind((task * columns + column) * 2)
                code.note(column, [grid.load(at + 1), grid.load(at)])
            with loop_between(0, desc.channels) as channel:
                plane = bind(image * desc.channels + channel)
                target = bind((plane * rows + row) * columns)
                source = x.part(bind(plane * prod(desc.size)))
                with loop_between(0, columns) as column:
                    out.store(target + column, code.value(source, column))

    name = kernel_name("float_sample", isa, desc, threads)
    return name, prim_func(name, _types(desc), body)


@dataclass(frozen=True)
class _Row:
    """Emits the code for a row of samples; places and shares[taps, columns] are notes of it."""

    desc: SampleDesc
    places: Flat
    shares: Flat

    def note(self, column: Index, given: Sequence[Expr]) -> None:
        """Write down the pixels of a sample; given: its row and column, from -1 to 1."""
        y, x = (self._coordinate(bind(value), axis) for axis, value in enumerate(given))
        if self.desc.mode == NEAREST:
            self._note(0, column, [bind(T.nearbyint(y)), bind(T.nearbyint(x))], float32(1.0))
            return
        top, left = bind(T.floor(y)), bind(T.floor(x))
        below, right = bind(y - top), bind(x - left)
        one, tap = float32(1.0), 0
        for row, share in ((top, one - below), (top + one, below)):
            for at, part in ((left, one - right), (left + one, right)):
                self._note(tap, column, [bind(row), bind(at)], share * part)
                tap += 1

    def _note(self, tap: int, column: Index, at: Sequence[Expr], share: Expr) -> None:
        row, place = (T.Cast("int32", value) for value in at)
        (height, width), nothing = self.desc.size, integer(0)
        row, place = bind(row), bind(place)
        inside = T.And(
            T.And(row >= nothing, row < integer(height)),
            T.And(place >= nothing, place < integer(width)),
        )
        flat = T.Select(inside, row * integer(width) + place, integer(_NOWHERE))
        self.places.store(tap * self.desc.out[1] + column, flat)
        self.shares.store(tap * self.desc.out[1] + column, share)

    def value(self, image: Flat, column: Index) -> Expr:
        """A sample of one channel."""
        total: Expr | None = None
        for tap in range(self.desc.taps):
            place = bind(self.places.load(tap * self.desc.out[1] + column))
            pixel = bind(image.load(T.max(place, integer(0))))
            pixel = T.Select(place >= integer(0), pixel, _NUMBER(0.0))
            part = pixel * self.shares.load(tap * self.desc.out[1] + column)
            total = part if total is None else total + part
        assert total is not None
        return total

    def _coordinate(self, given: Expr, axis: int) -> Expr:
        """In pixels, within bounds where there are any, and never too large for an integer."""
        size, one, half = self.desc.size[axis], float32(1.0), float32(0.5)
        if self.desc.aligned:
            x = (given + one) * float32((size - 1) / 2) if size > 1 else _NUMBER(0.0)
        else:
            x = ((given + one) * float32(size) - one) * half
        if self.desc.padding == REFLECTION:
            x = self._reflected(bind(x), size)
        if self.desc.padding == ZEROS:
            return _between(-2.0, x, size + 1.0)
        return _between(0.0, x, size - 1.0)

    def _reflected(self, x: Expr, size: int) -> Expr:
        """Back and forth between the centres of the outermost pixels, or their outer edges."""
        low, span = (0.0, size - 1.0) if self.desc.aligned else (-0.5, float(size))
        if not span:
            return _NUMBER(0.0)
        apart = bind(T.fabs(x - _NUMBER(low)))
        times = bind(T.floor(apart / float32(span)))
        rest = bind(apart - times * float32(span))
        is_even = T.EQ(times, T.floor(times * float32(0.5)) * float32(2.0))
        return T.Select(is_even, rest, float32(span) - rest) + _NUMBER(low)


def _between(low: float, x: Expr, high: float) -> Expr:
    """`x` within bounds; the lower one for NaN."""
    return bind(T.min(bind(T.max(bind(x), _NUMBER(low))), _NUMBER(high)))
