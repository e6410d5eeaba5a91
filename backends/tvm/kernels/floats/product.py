"""Products of float32 matrices: by constant weights, and of two activations.

A tile of sums stays in registers while it goes through all terms, in order, whatever the number of
threads: so the result does not depend on it. Where the target multiplies and adds in one
instruction, sums are rounded once for each term, elsewhere twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, prod

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    local,
    loop,
    prim_func,
    scratch,
    splat,
    split,
    tasks,
)
from qpc.backends.tvm.kernels.floats.panels import (
    InPlace,
    Matrix,
    Panels,
    pack_panel,
    pack_turned_panel,
    panel_size,
    zero,
)
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array, Kernel, TensorType, kernel_name
from qpc.backends.tvm.kernels.stored.tiles import Block, Tiles


def multiply(
    sums: Flat,
    size: tuple[int, int],
    lanes: int,
    steps: Index,
    left: Callable[[int, Index], Expr],
    right: Callable[[int, Index], Expr],
) -> None:
    """Add `steps` terms to a tile of rows times vectors, kept in `sums` one after the other.

    left: the element of a row, right: the vector, for a term.
    """
    rows, vectors = size
    with T.serial(steps) as step:
        weights = [bind(right(v, step)) for v in range(vectors)]
        for i in range(rows):
            x = bind(splat(left(i, step), lanes))
            for v in range(vectors):
                at = (i * vectors + v) * lanes
                sums.store(at, sums.load(at, lanes) + x * weights[v], lanes)


def worthwhile(isa: Isa, threads: int, terms: float) -> int:
    """How many threads to share a product of so many terms among: one, if they take longer."""
    dots = terms / isa.lanes
    shared = dots / threads + isa.costs.sharing.cost(threads, threads)
    return threads if shared < dots else 1


# --- by constant weights --------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearDesc:
    """x[m, k] times the transposed weight[o, k]."""

    m: int
    k: int
    o: int
    bias: bool


def linear(
    isa: Isa,
    desc: LinearDesc,
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    threads: int = 1,
) -> Kernel:
    """The kernel of a linear layer; weight[o, k], bias[o]."""
    tiles = Tiles.of(isa, desc.m, desc.o)
    params: list[Array] = [tiles.pack(weight)]
    if bias is not None:
        params.append(tiles.pack_outputs(bias))
    terms = desc.m * desc.k * desc.o
    threads = worthwhile(isa, threads, terms)
    name, func = _linear_function(isa, desc, tiles, threads)
    x, out = TensorType((desc.m, desc.k), "float32"), TensorType((desc.m, desc.o), "float32")
    return Kernel(name, func, (x,), tuple(params), out, macs=terms)


@cache
def _linear_function(
    isa: Isa, desc: LinearDesc, tiles: Tiles, threads: int
) -> tuple[str, PrimFunc]:
    lanes = tiles.lanes

    def body(x: Flat, weight: Flat, *rest: Flat) -> None:
        *bias, out = rest
        panels = Panels(weight, 0, desc.k, lanes)

        def first(block: Block, vector: int) -> Expr:
            if not bias:
                return zero(lanes)
            return bias[0].load(block.output + vector * lanes, lanes)

        def tile(block: Block, row: Index) -> None:
            left = Matrix(x, bind(row * desc.k), tiles.rows, desc.k, desc.k)
            begin = [bind(first(block, v)) for v in range(block.vectors)]
            values = tile_sums(tiles, block, left, panels, lambda _, v: begin[v])
            for i in range(tiles.rows):
                tiles.store(out, row + i, block, values[i])

        tiles.emit(threads, tile)

    shapes = [(desc.m, desc.k), (tiles.padded * desc.k,)]
    shapes += [(tiles.padded,)] if desc.bias else []
    types = [TensorType(shape, "float32") for shape in (*shapes, (desc.m, desc.o))]
    name = kernel_name("float_linear", isa, desc, tiles, threads)
    return name, prim_func(name, types, body)


def tile_sums(
    tiles: Tiles,
    block: Block,
    left: Matrix,
    panels: Panels | InPlace,
    first: Callable[[int, int], Expr],
) -> list[list[Expr]]:
    """The sums of one tile; `first` is what those of a row and a vector begin with."""
    lanes, size = tiles.lanes, (tiles.rows, block.vectors)
    sums = local(prod(size) * lanes, "float32")
    for i in range(prod(size)):
        sums.store(i * lanes, first(*divmod(i, block.vectors)), lanes)
    moved = panels.moved(block.before)
    multiply(sums, size, lanes, panels.rows, left.load, moved.load)
    return [
        [sums.load((i * block.vectors + v) * lanes, lanes) for v in range(block.vectors)]
        for i in range(tiles.rows)
    ]


# --- of two activations ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Operand:
    """How the matrices of a tensor lie in memory.

    size: elements of the tensor. batch: strides of the axes of the batch, 0 for those that all
    products share. stride: from one row to the next. turned: whether what lies side by side are
    the elements of a column.
    """

    size: int
    batch: tuple[int, ...]
    stride: int
    turned: bool = False

    def start(self, indices: Sequence[Index]) -> Index:
        """Where a matrix begins."""
        return sum((i * s for i, s in zip(indices, self.batch, strict=True) if s), 0)


@dataclass(frozen=True)
class ProductDesc:
    """a[..., m, k] times b[..., k, n], over the axes of `batch`; a is not turned."""

    batch: tuple[int, ...]
    m: int
    k: int
    n: int
    left: Operand
    right: Operand

    def is_panels(self, lanes: int) -> bool:
        """Whether the right matrices can be read as they lie, as fast as if they were packed.

        Rows that are apart may all lie in the same few sets of the cache.
        """
        right = self.right
        return not right.turned and right.stride == self.n and self.n % lanes == 0


def product(isa: Isa, desc: ProductDesc, threads: int = 1) -> Kernel:
    """The kernel of a batch of products; the result is contiguous."""
    terms = prod(desc.batch) * desc.m * desc.k * desc.n
    threads = worthwhile(isa, threads, terms)
    name, func = _product_function(isa, desc, threads)
    inputs = tuple(TensorType((o.size,), "float32") for o in (desc.left, desc.right))
    out = TensorType((*desc.batch, desc.m, desc.n), "float32")
    return Kernel(name, func, inputs, (), out, macs=terms)


@cache
def _product_function(isa: Isa, desc: ProductDesc, threads: int) -> tuple[str, PrimFunc]:
    tiles, count = Tiles.of(isa, desc.m, desc.n), prod(desc.batch)
    in_place = desc.is_panels(isa.lanes)
    size = 1 if in_place else panel_size(desc.k, desc.n, isa.lanes)  # no buffer is empty

    def body(a: Flat, b: Flat, out: Flat) -> None:
        def right_panels(where: Sequence[Index], room: Flat, shared: int) -> Panels | InPlace:
            matrix = right_matrix(desc, b, where)
            if in_place:
                return InPlace(matrix, tiles.lanes)
            panels = Panels(room, 0, desc.k, tiles.lanes)
            pack(panels, matrix, shared, turned=desc.right.turned)
            return panels

        def one(index: Index, room: Flat, shared: int) -> None:
            where = split(index, *desc.batch) if desc.batch else []
            panels = right_panels(where, room, shared)
            start, result = bind(desc.left.start(where)), out.part(bind(index * desc.m * desc.n))

            def tile(block: Block, row: Index) -> None:
                at = bind(start + row * desc.left.stride)
                left = Matrix(a, at, tiles.rows, desc.k, desc.left.stride)
                values = tile_sums(tiles, block, left, panels, lambda *_: zero(tiles.lanes))
                for i in range(tiles.rows):
                    tiles.store(result, row + i, block, values[i])

            tiles.emit(shared, tile)

        if count < threads:  # all of them at each product
            room = scratch(size, "float32")
            with loop(count) as index:
                one(index, room, threads)
        else:
            room = scratch(threads * size, "float32")
            with tasks(count, threads) as (worker, index):
                one(index, room.part(bind(worker * size)), 1)

    types = [TensorType((o.size,), "float32") for o in (desc.left, desc.right)]
    types.append(TensorType((*desc.batch, desc.m, desc.n), "float32"))
    name = kernel_name("float_product", isa, desc, threads)
    return name, prim_func(name, types, body)


def right_matrix(desc: ProductDesc, b: Flat, where: Sequence[Index]) -> Matrix:
    """The right matrix as it lies in memory, for one place in the batch."""
    start = bind(desc.right.start(where))
    rows, columns = (desc.n, desc.k) if desc.right.turned else (desc.k, desc.n)
    return Matrix(b, start, rows, columns, desc.right.stride)


def pack(panels: Panels, matrix: Matrix, threads: int, *, turned: bool) -> None:
    """Pack all panels of a matrix, or of its transpose."""
    columns, one = (matrix.rows, pack_turned_panel) if turned else (matrix.columns, pack_panel)
    with tasks(ceil(columns / panels.lanes), threads) as (_, panel):
        one(panels, matrix, panel)
