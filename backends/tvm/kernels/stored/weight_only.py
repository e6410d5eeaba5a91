"""The product of floats with integer weights, which become floats where they are multiplied.

Weights are read as they are stored: the sums of one row wait for memory, of which they take a
quarter or an eighth. The weights of a group are summed without its scale, which the sum gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    cast,
    integer,
    local,
    loop,
    prim_func,
    splat,
)
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array, Kernel, TensorType, kernel_name
from qpc.backends.tvm.kernels.stored.tiles import Block, Tiles

_FIRST, _SECOND = 28, 24
"""How far to shift a packed byte, as an int32, so that a weight of four bits is its highest."""


@dataclass(frozen=True)
class WeightOnlyDesc:
    """x[m, k] times the transposed weight[o, k], with scales for groups of `group` inputs.

    packed: whether weights have four bits, two of the same output to the byte.
    """

    m: int
    k: int
    o: int
    group: int
    packed: bool
    bias: bool

    @property
    def groups(self) -> tuple[int, int]:
        """How many groups are whole, and the size of the one that is not."""
        return divmod(self.k, self.group)


def weight_only(
    isa: Isa,
    desc: WeightOnlyDesc,
    weight: npt.NDArray[np.int8],
    scale: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    threads: int = 1,
) -> Kernel:
    """The kernel of `qpc::weight_only_linear`; weight[o, k], scale[o, groups], bias[o]."""
    tiles = Tiles.of(isa, desc.m, desc.o)
    integers: npt.NDArray[np.generic] = weight
    if desc.packed:
        even = np.pad(weight, ((0, 0), (0, desc.k % 2))).astype(np.int16) % 16
        integers = (even[:, ::2] + even[:, 1::2] * 16).astype(np.uint8).view(np.int8)
    params: list[Array] = [tiles.pack(integers), tiles.pack(scale)]
    if bias is not None:
        params.append(tiles.pack_outputs(bias))
    types = tuple(TensorType(p.shape, str(p.dtype)) for p in params)
    name, func = _function(isa, desc, tiles, types, threads)
    x, out = TensorType((desc.m, desc.k), "float32"), TensorType((desc.m, desc.o), "float32")
    return Kernel(name, func, (x,), tuple(params), out)


@cache
def _function(
    isa: Isa, desc: WeightOnlyDesc, tiles: Tiles, params: tuple[TensorType, ...], threads: int
) -> tuple[str, PrimFunc]:
    def body(x: Flat, weight: Flat, scale: Flat, *rest: Flat) -> None:
        *bias, out = rest
        code = _Code(desc, tiles, x, weight, scale, bias[0] if bias else None, out)
        tiles.emit(threads, code.tile)

    name = kernel_name("weight_only_linear", isa, desc, tiles, threads)
    x, out = TensorType((desc.m, desc.k), "float32"), TensorType((desc.m, desc.o), "float32")
    return name, prim_func(name, (x, *params, out), body)


@dataclass(frozen=True)
class _Code:
    """Emits one tile."""

    desc: WeightOnlyDesc
    tiles: Tiles
    x: Flat
    weight: Flat
    scale: Flat
    bias: Flat | None
    out: Flat

    def tile(self, block: Block, row: Index) -> None:
        desc, lanes = self.desc, self.tiles.lanes
        totals = self._sums(block)
        whole, rest = desc.groups
        with loop(whole) as group:
            self._group(totals, block, row, group, desc.group)
        if rest:
            self._group(totals, block, row, whole, rest)
        for i in range(self.tiles.rows):
            values = [
                self._with_bias(totals.load((i * block.vectors + v) * lanes, lanes), block, v)
                for v in range(block.vectors)
            ]
            self.tiles.store(self.out, row + i, block, values)

    def _with_bias(self, total: Expr, block: Block, vector: int) -> Expr:
        if self.bias is None:
            return total
        return total + self.bias.load(block.output + vector * self.tiles.lanes, self.tiles.lanes)

    def _sums(self, block: Block) -> Flat:
        lanes, count = self.tiles.lanes, self.tiles.rows * block.vectors
        sums = local(count * lanes, "float32")
        for i in range(count):
            sums.store(i * lanes, splat(T.FloatImm("float32", 0.0), lanes), lanes)
        return sums

    def _group(self, totals: Flat, block: Block, row: Index, group: Index, size: int) -> None:
        """Add the sums of one group, times its scales, to the totals."""
        desc, lanes, sums = self.desc, self.tiles.lanes, self._sums(block)
        step = 2 if desc.packed else 1
        x_start = bind(row * desc.k + group * desc.group)
        w_start = bind((group * (desc.group // step)) * lanes)
        with loop(size // step) as i:
            at, w_at = bind(x_start + i * step), bind(w_start + i * lanes)
            self._terms(sums, block, at, w_at, step)
        if size % step:
            last = size - 1
            w_at = bind(w_start + (last // step) * lanes)
            self._terms(sums, block, bind(x_start + last), w_at, 1)
        whole, rest = desc.groups
        for vector in range(block.vectors):
            place = (block.before + vector) * (whole + (rest > 0)) + group
            factor = bind(self.scale.load(place * lanes, lanes))
            for i in range(self.tiles.rows):
                at = (i * block.vectors + vector) * lanes
                total = totals.load(at, lanes) + sums.load(at, lanes) * factor
                totals.store(at, total, lanes)

    def _terms(self, sums: Flat, block: Block, x_at: Index, w_at: Index, count: int) -> None:
        """Add the products with one or two inputs, whose weights share their bytes.

        w_at: where these are among the weights of a vector.
        """
        lanes, k = self.tiles.lanes, self.desc.k
        size = (ceil(k / 2) if self.desc.packed else k) * lanes
        start = bind(block.before * size + w_at)
        weights = [
            self._weights(self.weight.load(start + vector * size, lanes), count)
            for vector in range(block.vectors)
        ]
        for term in range(count):
            for i in range(self.tiles.rows):
                x = bind(splat(self.x.load(x_at + i * k + term), lanes))
                for vector in range(block.vectors):
                    at = (i * block.vectors + vector) * lanes
                    sums.store(at, sums.load(at, lanes) + x * weights[vector][term], lanes)

    def _weights(self, stored: Expr, count: int) -> Sequence[Expr]:
        """The floats of one vector of weights, for one input or for two."""
        lanes = self.tiles.lanes
        wide = bind(cast(stored, "int32", lanes))
        if not self.desc.packed:
            return [bind(cast(wide, "float32", lanes))]
        found = []
        for distance in (_FIRST, _SECOND)[:count]:
            moved = T.shift_left(wide, integer(distance, lanes=lanes))
            signed = T.shift_right(moved, integer(_FIRST, lanes=lanes))
            found.append(bind(cast(signed, "float32", lanes)))
        return found
