"""Choose tile sizes from shapes alone: a small model of what a micro-kernel costs, and no tuning.

Tiles that do not divide a dimension overlap: the last one is moved back to end where the dimension
ends, and computes some values twice. So there is one micro-kernel per layer, and no remainder code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TypeAlias

from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.targets.costs import Costs

_MAX_PIXELS = 28
ALL_KEPT = 16
"""What `Tile.kept` counts in: enough to tell layers apart, and few kernels."""


@dataclass(frozen=True)
class Tile:
    """One micro-kernel: `pixels` consecutive outputs times `vectors` vectors of output channels.

    kept: how many of `ALL_KEPT` parts of the terms are left by skipping those whose weights are
    zero for all `vectors`, rounded up. If all, the micro-kernel goes through them without a list.
    kind: how it works. With "matrices", `pixels` counts the registers that hold pixels; with
    "winograd-2" and "winograd-4", for 2x2 or 4x4 outputs at a time, it counts patches; with
    "depthwise", `vectors` counts the neighbours that are one pixel with more channels.
    """

    pixels: int
    vectors: int
    kept: int = ALL_KEPT
    kind: str = "vectors"

    def __str__(self) -> str:
        kept = f", keeps {self.kept}/{ALL_KEPT}" if self.skips else ""
        return f"{self.kind} {self.pixels}x{self.vectors}{kept}"

    @property
    def skips(self) -> bool:
        """Whether terms are skipped."""
        return self.kept < ALL_KEPT

    @property
    def dots(self) -> int:
        """Number of `dot`s for each term: one for each vector of sums."""
        return self.pixels * self.vectors

    def cost(self, isa: Isa, steps: float, *, nibbles: bool = False) -> float:
        """Time in dots when the sums have `steps` terms of a `dot` each, before any is skipped.

        nibbles: two weights share a byte.
        """
        alone, costs = self._alone(isa, steps), isa.costs.vectors
        outputs = self.dots * (costs.epilogue + costs.epilogue_alone * alone)
        return self.sums_cost(isa, steps, nibbles=nibbles) + outputs

    def sums_cost(self, isa: Isa, steps: float, *, nibbles: bool = False) -> float:
        """What of `cost` is spent before the outputs are computed from the sums."""
        costs = isa.costs.vectors
        step = isa.step_time(self.pixels, self.vectors)
        if nibbles:
            step += self.vectors * costs.unpacking + self.pixels
        if self.dots < costs.few_dots:
            step *= 1 + costs.few_dots_cost * self._alone(isa, steps)
        if self.skips:
            step += costs.list_overhead
        return steps * self.kept / ALL_KEPT * step + costs.tile_overhead

    def _loads(self, isa: Isa) -> float:
        return self.pixels * isa.broadcast_cost + self.vectors

    def _alone(self, isa: Isa, steps: float) -> float:
        """How little of the next tile the CPU sees while it computes the outputs of this one."""
        steps *= self.kept / ALL_KEPT
        costs = isa.costs.vectors
        outputs = costs.epilogue_instructions * self.dots
        return min(1, (steps * (self.dots + self._loads(isa)) + outputs) / costs.window)


def choose_tile(isa: Isa, columns: int, vectors: int, steps: int) -> Tile:
    """The tile that covers `columns` pixels times `vectors` vectors of channels in the least time.

    The number of vectors of a tile divides `vectors`.
    """
    return best_tiles(isa, columns, vectors, steps)[0]


def best_tiles(
    isa: Isa,
    columns: int,
    vectors: int,
    steps: int,
    kept: Mapping[int, int] | None = None,
    *,
    nibbles: bool = False,
) -> list[Tile]:
    """All tiles, beginning with those of the least time.

    nibbles: two weights share a byte.
    kept: what tiles of so many vectors keep of the terms, where there is something to skip.
    """

    def total_cost(tile: Tile) -> float:
        count = ceil(columns / tile.pixels) * (vectors // tile.vectors)
        return count * tile.cost(isa, steps, nibbles=nibbles)

    tiles = list(tiles_that_fit(isa, columns, vectors, nibbles=nibbles))
    tiles += [replace(t, kept=kept[t.vectors]) for t in tiles if kept and t.vectors in kept]
    return sorted(tiles, key=total_cost)


def tiles_that_fit(
    isa: Isa, columns: int, vectors: int, *, nibbles: bool = False
) -> Iterator[Tile]:
    """All tiles that have room in registers; see `best_tiles`."""
    for tile_vectors in range(1, min(vectors, isa.registers) + 1):
        if vectors % tile_vectors:
            continue
        for pixels in range(1, min(columns, _MAX_PIXELS) + 1):
            fits = isa.accumulators_fit(pixels, tile_vectors)
            if nibbles:  # sums, the excess and two activations of each pixel, weights of three
                # kinds and two constants
                fits = pixels * (tile_vectors + 3) + 5 <= isa.registers
            if fits or (pixels == tile_vectors == 1 and not isa.in_pairs):
                yield Tile(pixels, tile_vectors)


Tuner: TypeAlias = Callable[[str, Sequence[Tile]], Tile | None]
"""Chooses a tile for the kernel that the cost model calls by that name, or None to leave it.

It gets all tiles that are possible, the best by cost first, and returns one of these.
"""


@dataclass(frozen=True)
class Cut:
    """A task: `rows` rows of `images` images, and one of `parts` parts of the output channels."""

    images: int
    rows: int
    parts: int


@dataclass(frozen=True)
class Blocks:
    """How a layer is cut into tasks: blocks of `rows` output rows, `parts` parts of channels."""

    rows: int
    parts: int


def choose_blocks(
    *,
    images: int,
    rows: int,
    channel_blocks: int,
    row_cost: float,
    bytes_per_row: int,
    extra_bytes: int,
    copies: bool,
    threads: int,
    costs: Costs,
) -> Blocks:
    """Balanced tasks for `threads` threads whose input rows fit into a cache.

    `row_cost` is the time of one output row in dots, `bytes_per_row` what one more output row needs
    of the input and `extra_bytes` what the first row needs beyond that; `copies` says if a task
    copies it.
    """

    def cost(blocks: Blocks) -> float:
        tasks = images * ceil(rows / blocks.rows) * blocks.parts
        size = extra_bytes + blocks.rows * bytes_per_row
        spill = 1.0 if size <= costs.scratch_bytes or blocks.rows == 1 else 1.5
        work = blocks.rows * row_cost / blocks.parts * spill
        copying = size * costs.vectors.copy_per_byte if copies else 0
        return ceil(tasks / threads) * (work + copying) + costs.sharing.cost(tasks, threads)

    # Of all block sizes that give the same number of blocks, the smallest overlaps least.
    sizes = {ceil(rows / count) for count in range(1, rows + 1)}
    parts = [p for p in range(1, channel_blocks + 1) if channel_blocks % p == 0 and threads > 1]
    return min(
        (Blocks(size, part) for size in sizes for part in parts or [1]),
        key=lambda blocks: (cost(blocks), -blocks.rows),
    )
