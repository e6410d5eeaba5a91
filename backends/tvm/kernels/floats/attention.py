"""Scaled dot-product attention of float32, in one kernel.

Nothing of the size of queries times keys is ever in memory: a few queries at a time have their
scores in a row each, which become weights, and multiply the values. Keys and values are packed once
for each head. Every row is computed by one thread, in one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from math import ceil, inf, prod

import numpy as np
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    float32,
    local,
    loop,
    loop_between,
    prim_func,
    scratch,
    shuffle,
    smaller,
    splat,
    split,
    tasks,
    when,
)
from qpc.backends.tvm.kernels.floats.functions import Functions
from qpc.backends.tvm.kernels.floats.panels import Matrix, Panels, panel_size, widened, zero
from qpc.backends.tvm.kernels.floats.product import Operand, multiply, pack, worthwhile
from qpc.backends.tvm.kernels.floats.reduce import lanes_joined
from qpc.backends.tvm.kernels.geometry import tile_start
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType, kernel_name
from qpc.backends.tvm.kernels.stored.tiles import Block, Tiles

_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class AttentionDesc:
    """Queries[..., tokens, width], keys[..., keys, width] and values[..., keys, values].

    mask: of numbers[..., tokens, keys] that are added to the scores. causal: whether a query sees
    only as many keys as there are queries up to it. scale: of the scores.
    """

    batch: tuple[int, ...]
    tokens: int
    keys: int
    width: int
    values: int
    scale: float
    query: Operand
    key: Operand
    value: Operand
    mask: Operand | None = None
    causal: bool = False

    @property
    def tensors(self) -> tuple[Operand, ...]:
        """What the kernel reads."""
        return (self.query, self.key, self.value, *((self.mask,) if self.mask else ()))


def attention(isa: Isa, desc: AttentionDesc, threads: int = 1) -> Kernel:
    """The kernel of attention; the result[..., tokens, values] is contiguous.

    A query that sees no key has the result 0, as with PyTorch's own kernels.
    """
    terms = prod(desc.batch) * desc.tokens * desc.keys * (desc.width + desc.values)
    name, func = _function(isa, desc, worthwhile(isa, threads, terms))
    inputs = tuple(TensorType((o.size,), "float32") for o in desc.tensors)
    out = TensorType((*desc.batch, desc.tokens, desc.values), "float32")
    return Kernel(name, func, inputs, (), out, macs=terms)


@cache
def _function(isa: Isa, desc: AttentionDesc, threads: int) -> tuple[str, PrimFunc]:
    sizes = _Sizes.of(isa, desc)
    count, packed = prod(desc.batch), sizes.packed

    def body(*arguments: Flat) -> None:
        *tensors, out = arguments
        everywhere = count < threads
        rooms = 1 if everywhere else threads
        panels, rows = scratch(rooms * packed, "float32"), scratch(threads * sizes.row, "float32")

        def head(index: Index, worker: Index, shared: int) -> None:
            room = panels.part(0 if everywhere else bind(worker * packed))
            code = _Head(isa, desc, sizes, tensors, index, room, out)
            code.pack(shared)
            tiles = ceil(desc.tokens / sizes.rows)
            with tasks(tiles, shared) as (inner, tile):
                which = inner if everywhere else worker
                code.queries(
                    bind(tile_start(tile, sizes.rows, desc.tokens)),
                    rows.part(bind(which * sizes.row)),
                )

        if everywhere:
            with loop(count) as index:
                head(index, 0, threads)
        else:
            with tasks(count, threads) as (worker, index):
                head(index, worker, 1)

    types = [TensorType((o.size,), "float32") for o in desc.tensors]
    types.append(TensorType((*desc.batch, desc.tokens, desc.values), "float32"))
    name = kernel_name("float_attention", isa, desc, threads)
    return name, prim_func(name, types, body)


@dataclass(frozen=True)
class _Sizes:
    """rows: queries at a time; scores, values: vectors of their tiles; vectors: of all scores."""

    lanes: int
    rows: int
    scores: int
    values: int
    vectors: int
    packed_keys: int
    packed: int

    @classmethod
    def of(cls, isa: Isa, desc: AttentionDesc) -> _Sizes:
        scores = Tiles.of(isa, desc.tokens, desc.keys)
        values = Tiles.of(isa, desc.tokens, desc.values)
        keys = panel_size(desc.width, desc.keys, isa.lanes)
        return cls(
            isa.lanes,
            scores.rows,
            scores.vectors,
            values.vectors,
            ceil(desc.keys / isa.lanes),
            keys,
            keys + panel_size(desc.keys, desc.values, isa.lanes),
        )

    @property
    def stride(self) -> int:
        """Elements from the scores of a query to those of the next."""
        return self.vectors * self.lanes

    @property
    def row(self) -> int:
        """Elements of scratch memory for the scores of some queries."""
        return self.rows * self.stride


class _Head:
    """Emits the code for one place in the batch."""

    def __init__(
        self,
        isa: Isa,
        desc: AttentionDesc,
        sizes: _Sizes,
        tensors: Sequence[Flat],
        index: Index,
        room: Flat,
        out: Flat,
    ) -> None:
        where = split(index, *desc.batch) if desc.batch else []
        starts = [bind(o.start(where)) for o in desc.tensors]
        self._desc, self._sizes, self._lanes = desc, sizes, isa.lanes
        self._tensors, self._starts = tensors, starts
        self._keys = Panels(room, 0, desc.width, isa.lanes)
        self._values = Panels(room.part(sizes.packed_keys), 0, desc.keys, isa.lanes)
        self._result = out.part(bind(index * (desc.tokens * desc.values)))
        self._tiles = Tiles(desc.tokens, desc.values, isa.lanes, sizes.rows, sizes.values)

    def pack(self, threads: int) -> None:
        """Pack keys and values."""
        desc = self._desc
        _, key, value, *_ = self._tensors
        _, key_start, value_start, *_ = self._starts
        keys = Matrix(key, key_start, desc.keys, desc.width, desc.key.stride)
        pack(self._keys, keys, threads, turned=True)
        values = Matrix(value, value_start, desc.keys, desc.values, desc.value.stride)
        pack(self._values, values, threads, turned=False)

    def queries(self, first: Index, scores: Flat) -> None:
        """Compute a tile of queries from `first` on, with room for their scores."""
        desc, lanes = self._desc, self._lanes
        end: Index = desc.keys
        if desc.causal:
            end = bind(smaller(first + self._sizes.rows, desc.keys))
        self._scores(first, scores, end)
        inverses = local(self._sizes.rows, "float32")
        vectors = (end + (lanes - 1)) // lanes
        for i in range(self._sizes.rows):
            row = scores.part(i * self._sizes.stride)
            inverses.store(i, self._weights(row, vectors))
        self._multiply_values(first, scores, inverses, end)

    def _scores(self, first: Index, scores: Flat, end: Index) -> None:
        sizes, lanes = self._sizes, self._lanes
        step = sizes.scores
        before = (sizes.vectors - 1) // step  # the last block may end beside the vectors
        last = sizes.vectors - before * step
        if before:
            blocks = before
            if self._desc.causal:
                blocks = bind(smaller((end + (step * lanes - 1)) // (step * lanes), before))
            with loop_between(T.int32(0), blocks) as block:
                self._score_tile(first, scores, bind(block * step), step)
        if before and self._desc.causal:
            with when(end > before * step * lanes):
                self._score_tile(first, scores, before * step, last)
        else:
            self._score_tile(first, scores, before * step, last)

    def _score_tile(self, first: Index, scores: Flat, vector: Index, vectors: int) -> None:
        desc, lanes, size = self._desc, self._lanes, (self._sizes.rows, vectors)
        at = bind(self._starts[0] + first * desc.query.stride)
        query = Matrix(self._tensors[0], at, size[0], desc.width, desc.query.stride)
        sums = local(prod(size) * lanes, "float32")
        for i in range(prod(size)):
            sums.store(i * lanes, zero(lanes), lanes)
        multiply(sums, size, lanes, desc.width, query.load, self._keys.moved(vector).load)
        for i in range(size[0]):
            for v in range(vectors):
                is_last = isinstance(vector, int) and vector + v == self._sizes.vectors - 1
                used = (desc.keys - 1) % lanes + 1 if is_last else lanes
                total = sums.load((i * vectors + v) * lanes, lanes)
                score = self._masked(total, first + i, (vector + v) * lanes, used)
                scores.store(i * self._sizes.stride + (vector + v) * lanes, score, lanes)

    def _masked(self, total: Expr, row: Index, key: Index, used: int) -> Expr:
        """A vector of scores, of which the first `used` lanes are of keys."""
        desc, lanes = self._desc, self._lanes
        score = total * float32(desc.scale, lanes)
        nothing = float32(-inf, lanes)
        if desc.mask:
            start = self._starts[3] + row * desc.mask.stride + key
            score = score + widened(self._tensors[3].load(start, used), used, nothing, lanes)
        elif used < lanes:
            score = widened(_first(bind(score), used), used, nothing, lanes)
        if desc.causal and lanes > 1:
            allowed = T.ramp(key, 1, lanes) <= splat(row, lanes)
            score = T.Select(allowed, score, nothing)
        elif desc.causal:
            score = T.Select(key <= row, score, nothing)
        return score

    def _weights(self, row: Flat, vectors: Index) -> Expr:
        """Make weights of scores, up to a factor, which is returned."""
        lanes = self._lanes
        functions, kept = Functions(lanes), local(2 * lanes, "float32")
        kept.store(
            0, float32(_LOWEST, lanes), lanes
        )  # rather than an infinity, from which NaN come
        with self._each(vectors) as i:
            kept.store(0, T.max(kept.load(0, lanes), row.load(i * lanes, lanes)), lanes)
        most = bind(splat(lanes_joined(T.max, kept.load(0, lanes), lanes), lanes))
        kept.store(lanes, zero(lanes), lanes)
        with self._each(vectors) as i:
            weight = bind(functions.exp_negative(bind(row.load(i * lanes, lanes) - most)))
            row.store(i * lanes, weight, lanes)
            kept.store(lanes, kept.load(lanes, lanes) + weight, lanes)
        total = lanes_joined(lambda a, b: a + b, kept.load(lanes, lanes), lanes)
        nothing = T.FloatImm("float32", 0.0)
        return T.Select(T.EQ(total, nothing), nothing, float32(1.0) / total)

    def _each(self, vectors: Index) -> AbstractContextManager[Index]:
        return loop(vectors) if isinstance(vectors, int) else loop_between(T.int32(0), vectors)

    def _multiply_values(self, first: Index, scores: Flat, inverses: Flat, end: Index) -> None:
        desc, lanes, sizes = self._desc, self._lanes, self._sizes

        def tile(block: Block) -> None:
            size = (sizes.rows, block.vectors)
            sums = local(prod(size) * lanes, "float32")
            for i in range(prod(size)):
                sums.store(i * lanes, zero(lanes), lanes)
            weights = Matrix(scores, 0, sizes.rows, desc.keys, sizes.stride)
            values = self._values.moved(block.before)
            multiply(sums, size, lanes, end, weights.load, values.load)
            for i in range(sizes.rows):
                inverse = bind(splat(inverses.load(i), lanes))
                found = [
                    sums.load((i * block.vectors + v) * lanes, lanes) * inverse
                    for v in range(block.vectors)
                ]
                self._tiles.store(self._result, first + i, block, found)

        self._tiles.each_block(tile)


def _first(value: Expr, count: int) -> Expr:
    return shuffle([value], range(count))
