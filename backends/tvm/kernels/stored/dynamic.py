"""The product of floats with int8 weights in integers, on a grid of its own for each row.

First all rows become integers in scratch memory, with the scale and the zero point of each; then
`dot`s multiply them with the weights, as in a convolution. Every float of a result comes of the
operations of `qpc.quant.row_grids`, one after the other: where a sum follows a product, something
stands in between that no compiler can see through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import ceil, nan

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    cast,
    float_bits,
    integer,
    local,
    loop,
    prim_func,
    reinterpret,
    scratch,
    shuffle,
    smaller,
    splat,
    tasks,
)
from qpc.backends.tvm.kernels.epilogue import ROUNDING
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array, Kernel, TensorType, kernel_name, least
from qpc.backends.tvm.kernels.stored.tiles import Block, Tiles
from qpc.quant.grid import SMALLEST_SCALE
from qpc.quant.row_grids import HIGHEST

_MAGNITUDE = 0x7FFFFFFF
"""The bits of a float32 without its sign."""
_LARGEST_FINITE = 0x7F7FFFFF
_NUMBERS = np.array(
    [
        float_bits(HIGHEST),
        float_bits(SMALLEST_SCALE),
        float_bits(1.0),
        0,
    ],
    np.int32,
)
"""As data: TVM would turn a division by a constant into a multiplication."""

_DEEPEST = 4  # terms of a `dot`: `Tiles.pack` lays them side by side, deeper ones are in pieces


@dataclass(frozen=True)
class DynamicDesc:
    """x[m, k] times the transposed weight[o, k]."""

    m: int
    k: int
    o: int
    bias: bool


def dynamic(
    isa: Isa,
    desc: DynamicDesc,
    weight: npt.NDArray[np.int8],
    scale: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    threads: int = 1,
) -> Kernel:
    """The kernel of `qpc::dynamic_linear`; weight[o, k], scale[o], bias[o]."""
    isa = isa.exact_for(weight, deepest=_DEEPEST)[0]
    tiles = Tiles.of(isa, desc.m, desc.o)
    params: list[Array] = [
        _NUMBERS,
        tiles.pack(weight, isa.depth),
        tiles.pack_outputs(weight.sum(1, dtype=np.int32)),
        tiles.pack_outputs(scale),
    ]
    if bias is not None:
        params.append(tiles.pack_outputs(bias))
    types = tuple(TensorType(p.shape, str(p.dtype)) for p in params)
    name, func = _function(isa, desc, tiles, types, threads)
    x, out = TensorType((desc.m, desc.k), "float32"), TensorType((desc.m, desc.o), "float32")
    return Kernel(name, func, (x,), tuple(params), out)


@cache
def _function(
    isa: Isa, desc: DynamicDesc, tiles: Tiles, params: tuple[TensorType, ...], threads: int
) -> tuple[str, PrimFunc]:
    def body(x: Flat, numbers: Flat, *rest: Flat) -> None:
        weight, sums, scale, *bias, out = rest
        rows = _Rows(isa, desc, x, numbers, *_room(isa, desc))
        with tasks(desc.m, min(threads, desc.m)) as (_, row):
            rows.quantize(row)
        code = _Code(isa, desc, tiles, rows, weight, sums, scale, bias[0] if bias else None, out)
        tiles.emit(threads, code.tile)

    name = kernel_name("dynamic_linear", isa, desc, tiles, threads)
    x, out = TensorType((desc.m, desc.k), "float32"), TensorType((desc.m, desc.o), "float32")
    return name, prim_func(name, (x, *params, out), body)


def _stride(isa: Isa, desc: DynamicDesc) -> int:
    """Elements from one row of integers to the next."""
    return ceil(desc.k / isa.depth) * isa.depth


def _room(isa: Isa, desc: DynamicDesc) -> tuple[Flat, Flat, Flat]:
    """Scratch memory for integers, scales and zero points of all rows."""
    integers = scratch(desc.m * _stride(isa, desc), isa.x_type)
    return integers, scratch(desc.m, "float32"), scratch(desc.m, "int32")


@dataclass(frozen=True)
class _Rows:
    """Emits the way from a row of floats to its integers, scale and zero point."""

    isa: Isa
    desc: DynamicDesc
    x: Flat
    numbers: Flat
    integers: Flat
    scales: Flat
    zero_points: Flat

    def number(self, index: int) -> Expr:
        return T.reinterpret("float32", self.numbers.load(index))

    def quantize(self, row: Index) -> None:
        start = bind(row * self.desc.k)
        greatest, smallest, magnitude = self._extremes(start)
        highest, least_scale, one = map(self.number, range(3))
        range_ = bind(bind(greatest / highest) - bind(smallest / highest))
        scale = bind(T.max(range_, least_scale))
        inverse = bind(one / scale)
        place = smallest * (T.FloatImm("float32", 0.0) - inverse)
        place = T.min(T.max(place, T.FloatImm("float32", 0.0)), highest)
        zero_point = bind(_rounded(place, 1) - integer(ROUNDING))
        bad = magnitude > integer(_LARGEST_FINITE)
        undefined = T.reinterpret("float32", integer(float_bits(nan)))
        self.scales.store(row, T.Select(bad, undefined, scale))
        first = bind(zero_point + integer(least(self.isa.activation)))
        self.zero_points.store(row, first)
        self._round(row, start, inverse, zero_point, first)

    @property
    def _vectors(self) -> tuple[int, int]:
        """Lanes of the vectors of a row, and how many there are; the last one overlaps."""
        lanes = self.isa.lanes if self.desc.k >= self.isa.lanes else 1
        return lanes, ceil(self.desc.k / lanes)

    def _each_vector(self, do: Callable[[Index, int], None]) -> None:
        lanes, count = self._vectors
        with loop(count) as i:
            do(bind(smaller(i * lanes, self.desc.k - lanes)), lanes)

    def _extremes(self, start: Index) -> tuple[Expr, Expr, Expr]:
        """The greatest and the least of a row and 0, and the largest magnitude as its bits."""
        lanes, _ = self._vectors
        floats, bits = local(2 * lanes, "float32"), local(lanes, "int32")
        floats.store(0, splat(T.FloatImm("float32", 0.0), lanes), lanes)
        floats.store(lanes, splat(T.FloatImm("float32", 0.0), lanes), lanes)
        bits.store(0, integer(0, lanes=lanes), lanes)

        def look(at: Index, lanes: int) -> None:
            x = bind(self.x.load(start + at, lanes))
            floats.store(0, T.max(x, floats.load(0, lanes)), lanes)
            floats.store(lanes, T.min(x, floats.load(lanes, lanes)), lanes)
            size = T.bitwise_and(reinterpret(x, "int32", lanes), integer(_MAGNITUDE, lanes=lanes))
            bits.store(0, T.max(size, bits.load(0, lanes)), lanes)

        self._each_vector(look)
        return (
            _reduced(T.max, floats.load(0, lanes), lanes),
            _reduced(T.min, floats.load(lanes, lanes), lanes),
            _reduced(T.max, bits.load(0, lanes), lanes),
        )

    def _round(
        self, row: Index, start: Index, inverse: Expr, zero_point: Expr, first: Expr
    ) -> None:
        lowest = bind(cast(integer(0) - zero_point, "float32", 1))
        highest = bind(cast(integer(HIGHEST) - zero_point, "float32", 1))
        offset = bind(first - integer(ROUNDING))
        target = bind(row * _stride(self.isa, self.desc))

        def write(at: Index, lanes: int) -> None:
            product = self.x.load(start + at, lanes) * splat(inverse, lanes)
            inside = T.max(product, splat(lowest, lanes))
            inside = T.min(inside, splat(highest, lanes))
            points = _rounded(inside, lanes) + splat(offset, lanes)
            self.integers.store(target + at, cast(points, self.isa.x_type, lanes), lanes)

        self._each_vector(write)


def _rounded(value: Expr, lanes: int) -> Expr:
    """A small float to nearest, half to even, as an int32 that `ROUNDING` is to be taken off."""
    shifted = value + splat(T.reinterpret("float32", T.IntImm("int32", ROUNDING)), lanes)
    return reinterpret(shifted, "int32", lanes)


def _reduced(operation: Callable[[Expr, Expr], Expr], value: Expr, lanes: int) -> Expr:
    """One number of all lanes, a power of two."""
    while lanes > 1:
        half, whole = lanes // 2, bind(value)
        parts = [shuffle([whole], range(begin, begin + half)) for begin in (0, half)]
        value, lanes = operation(*parts), half
    return bind(value)


@dataclass(frozen=True)
class _Code:
    """Emits one tile of the product."""

    isa: Isa
    desc: DynamicDesc
    tiles: Tiles
    rows: _Rows
    weight: Flat
    sums: Flat
    scale: Flat
    bias: Flat | None
    out: Flat

    def tile(self, block: Block, row: Index) -> None:
        isa, lanes = self.isa, self.isa.lanes
        size, stride = lanes * isa.depth, _stride(isa, self.desc)
        steps = stride // isa.depth
        start, x_start = bind(block.before * (steps * size)), bind(row * stride)
        sums = local(self.tiles.rows * block.vectors * lanes, "int32")
        for i in range(self.tiles.rows * block.vectors):
            sums.store(i * lanes, integer(0, lanes=lanes), lanes)
        with loop(steps) as step:
            w_at = bind(start + step * size)
            x_at = bind(x_start + step * isa.depth)
            w = [
                bind(cast(self.weight.load(w_at + v * (steps * size), size), isa.w_type, size))
                for v in range(block.vectors)
            ]
            for i in range(self.tiles.rows):
                x = bind(isa.broadcast(self.rows.integers.load(x_at + i * stride, isa.depth)))
                for v in range(block.vectors):
                    at = (i * block.vectors + v) * lanes
                    sums.store(at, isa.dot(sums.load(at, lanes), x, w[v]), lanes)
        for i in range(self.tiles.rows):
            values = [
                self._real(sums.load((i * block.vectors + v) * lanes, lanes), block, v, row + i)
                for v in range(block.vectors)
            ]
            self.tiles.store(self.out, row + i, block, values)

    def _real(self, total: Expr, block: Block, vector: int, row: Index) -> Expr:
        """The result that a sum of products stands for."""
        lanes = self.isa.lanes
        at = block.output + vector * lanes
        zero_point = splat(self.rows.zero_points.load(row), lanes)
        centred = total - zero_point * self.sums.load(at, lanes)
        real = cast(centred, "float32", lanes) * self.scale.load(at, lanes)
        real = bind(real * splat(self.rows.scales.load(row), lanes))
        if self.bias is None:
            return real
        # The number is 0, which only its reader knows: so product and sum stay apart.
        unknown = splat(self.rows.numbers.load(len(_NUMBERS) - 1), lanes)
        product = T.bitwise_xor(reinterpret(real, "int32", lanes), unknown)
        return reinterpret(product, "float32", lanes) + self.bias.load(at, lanes)
