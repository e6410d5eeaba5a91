"""How a matrix product is cut into tiles of rows and vectors of outputs, and weights are packed.

A tile keeps its sums in registers, one vector for each row and group of `lanes` outputs. Blocks of
outputs are worked on one after the other, with the rows of a chunk inside, so that the weights of a
block are read from memory once for each chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    loop,
    shuffle,
    smaller,
    split,
    tasks,
)
from qpc.backends.tvm.kernels.geometry import tile_start
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array

_MOST_ROWS = 6
_MOST_VECTORS = 4
_TILES_IN_CHUNK = 16


@dataclass(frozen=True)
class Block:
    """Consecutive outputs: `vectors` vectors of them, the last of which has `last` lanes in use.

    outputs: where it begins; before: how many vectors of outputs come before.
    """

    output: Index
    before: Index
    vectors: int
    last: int


@dataclass(frozen=True)
class Tiles:
    """Tiles of a product of `m` rows with `o` outputs.

    rows, vectors: of a tile; the last block of outputs may have fewer vectors, and the last tile of
    rows is moved back to end with the last row.
    """

    m: int
    o: int
    lanes: int
    rows: int
    vectors: int

    @classmethod
    def of(cls, isa: Isa, m: int, o: int) -> Tiles:
        """Tiles whose sums, weights and one input fit the registers."""
        rows = ceil(m / ceil(m / _MOST_ROWS))
        fitting = (isa.registers - 1) // (rows + 1)
        vectors = max(1, min(_MOST_VECTORS, fitting, ceil(o / isa.lanes)))
        return cls(m, o, isa.lanes, rows, vectors)

    @property
    def padded(self) -> int:
        """How many outputs the vectors hold."""
        return ceil(self.o / self.lanes) * self.lanes

    def pack(self, weight: npt.NDArray[np.generic], depth: int = 1) -> Array:
        """weight[o, k] as [vector][k / depth][lane][depth], padded with zeros.

        It does not depend on the rows, so that models for several batch sizes have it once.
        """
        o, k = weight.shape
        steps = ceil(k / depth)
        whole = np.zeros((self.padded, steps * depth), weight.dtype)
        whole[:o, :k] = weight
        vectors = whole.reshape(-1, self.lanes, steps, depth).swapaxes(1, 2)
        return vectors.flatten()

    def pack_outputs(self, values: npt.NDArray[np.generic]) -> Array:
        """values[o], padded with zeros."""
        return np.pad(values, (0, self.padded - self.o))

    def emit(self, threads: int, tile: Callable[[Block, Index], None]) -> None:
        """Call `tile(block, first row)` for all tiles, in loops."""
        for count, block in self.kinds():
            self._blocks(count, threads, block, tile)

    def each_block(self, do: Callable[[Block], None]) -> None:
        """Call `do(block)` for all blocks of outputs, in loops, for rows that are known."""
        for count, block in self.kinds():
            with loop(count) as i:
                do(block(i))

    def kinds(self) -> Iterator[tuple[int, Callable[[Index], Block]]]:
        """Blocks that are alike: how many, and each by its number."""
        size = self.vectors * self.lanes
        whole, rest = divmod(self.o, size)
        if whole:
            yield whole, lambda i: Block(i * size, i * self.vectors, self.vectors, self.lanes)
        if rest:
            vectors = ceil(rest / self.lanes)
            last = rest - (vectors - 1) * self.lanes
            yield 1, lambda i: Block(whole * size, whole * self.vectors, vectors, last)

    def first_row(self, number: Index) -> Index:
        """Where a tile of rows begins."""
        return tile_start(number, self.rows, self.m)

    def _blocks(
        self,
        count: int,
        threads: int,
        block: Callable[[Index], Block],
        tile: Callable[[Block, Index], None],
    ) -> None:
        tiles = ceil(self.m / self.rows)
        chunks = ceil(tiles / _TILES_IN_CHUNK)
        chunk = ceil(tiles / chunks)  # all of them about equally long: the last ends with the rows
        with tasks(chunks * count, min(threads, chunks * count)) as (_, task):
            at, number = split(task, chunks, count)
            with loop(chunk) as i:
                which = at * chunk + i if tiles % chunk == 0 else smaller(at * chunk + i, tiles - 1)
                tile(block(number), bind(self.first_row(which)))

    def store(self, out: Flat, row: Index, block: Block, values: list[Expr]) -> None:
        """Store the results of a block in one row of `out`."""
        for vector, value in enumerate(values):
            used = block.last if vector == block.vectors - 1 else self.lanes
            kept = value if used == self.lanes else shuffle([value], range(used))
            out.store(row * self.o + block.output + vector * self.lanes, kept, used)
