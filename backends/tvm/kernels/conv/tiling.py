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

_MAX_PIXELS = 28
_FEW_DOTS = 10  # below that, CPUs that start two `dot`s per cycle wait for results ...
_FEW_DOTS_COST = 0.03  # ... a little, so that other CPUs do not pay much for avoiding it
_LIST_OVERHEAD = 1  # finding the next term in a list, in dots
_UNPACKING = 0.75  # three instructions for two vectors, of which CPUs start twice as many as dots
_TILE_OVERHEAD = 2  # set-up and loop control of one tile, in dots
_EPILOGUE = 3  # requantization and store of one vector, in dots, while other tiles are computed
_EPILOGUE_ALONE = 1.5  # more of the same, if tiles are too long to overlap in time
_EPILOGUE_INSTRUCTIONS = 9
_WINDOW = 320  # instructions that a CPU looks ahead
_COPY_PER_BYTE = 1 / 16  # moving bytes into scratch memory, in dots
ALL_KEPT = 16
"""What `Tile.kept` counts in: enough to tell layers apart, and few kernels."""
SCRATCH_BYTES = 192 * 1024  # leaves room for weights and output in a second-level cache


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
        alone = self._alone(isa, steps)
        outputs = self.dots * (_EPILOGUE + _EPILOGUE_ALONE * alone)
        return self.sums_cost(isa, steps, nibbles=nibbles) + outputs

    def sums_cost(self, isa: Isa, steps: float, *, nibbles: bool = False) -> float:
        """What of `cost` is spent before the outputs are computed from the sums."""
        step = float(max(self.dots, self._loads(isa), isa.sums_in_flight))
        if nibbles:
            step += self.vectors * _UNPACKING + self.pixels
        if self.dots < _FEW_DOTS:
            step *= 1 + _FEW_DOTS_COST * self._alone(isa, steps)
        if self.skips:
            step += _LIST_OVERHEAD
        return steps * self.kept / ALL_KEPT * step + _TILE_OVERHEAD

    def _loads(self, isa: Isa) -> float:
        return self.pixels * isa.broadcast_cost + self.vectors

    def _alone(self, isa: Isa, steps: float) -> float:
        """How little of the next tile the CPU sees while it computes the outputs of this one."""
        steps *= self.kept / ALL_KEPT
        instructions = steps * (self.dots + self._loads(isa)) + _EPILOGUE_INSTRUCTIONS * self.dots
        return min(1, instructions / _WINDOW)


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
            # accumulators, one row of weights, and the broadcast pixel; or accumulators, the
            # excess and two activations of each pixel, weights of three kinds and two constants
            used = (pixels + 1) * tile_vectors + 1
            if nibbles:
                used = pixels * (tile_vectors + 3) + 5
            if used <= isa.registers or pixels == tile_vectors == 1:
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


@dataclass(frozen=True)
class Sharing:
    """What it takes to share tasks among threads.

    launch: handing work to other threads and waiting for the last of them.
    task: one more task for a thread.
    """

    launch: int
    task: int

    def cost(self, tasks: int, threads: int) -> int:
        """Time until all is done beyond that of the tasks; a single task stays where it is."""
        if threads == 1 or tasks == 1:
            return 0
        return self.launch + ceil(tasks / threads) * self.task


SHARING = Sharing(launch=4000, task=2000)
"""In dots."""


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
) -> Blocks:
    """Balanced tasks for `threads` threads whose input rows fit into a cache.

    `row_cost` is the time of one output row in dots, `bytes_per_row` what one more output row needs
    of the input and `extra_bytes` what the first row needs beyond that; `copies` says if a task
    copies it.
    """

    def cost(blocks: Blocks) -> float:
        tasks = images * ceil(rows / blocks.rows) * blocks.parts
        size = extra_bytes + blocks.rows * bytes_per_row
        spill = 1.0 if size <= SCRATCH_BYTES or blocks.rows == 1 else 1.5
        work = blocks.rows * row_cost / blocks.parts * spill
        copying = size * _COPY_PER_BYTE if copies else 0
        return ceil(tasks / threads) * (work + copying) + SHARING.cost(tasks, threads)

    # Of all block sizes that give the same number of blocks, the smallest overlaps least.
    sizes = {ceil(rows / count) for count in range(1, rows + 1)}
    parts = [p for p in range(1, channel_blocks + 1) if channel_blocks % p == 0 and threads > 1]
    return min(
        (Blocks(size, part) for size in sizes for part in parts or [1]),
        key=lambda blocks: (cost(blocks), -blocks.rows),
    )
