"""What instructions and memory cost, by which compilation chooses tiles and tasks.

The numbers are those that were measured: of vectors, on AMD EPYC CPUs (Zen 3, 4 and 5) and on Intel
Xeons (Sapphire Rapids); of registers of matrices, on Sapphire Rapids. Another family of CPUs has
numbers of its own, in its `Target`. They change which code is chosen, and never its results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any


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


@dataclass(frozen=True)
class VectorCosts:
    """Of kernels that keep sums in registers of vectors; times are in dots unless it says another.

    few_dots: below that, CPUs that start two `dot`s per cycle wait for results, a little
    (`few_dots_cost`), so that other CPUs do not pay much for avoiding it.
    list_overhead: finding the next term in a list.
    unpacking: weights of four bits: three instructions for two vectors, of which CPUs start twice
    as many as dots. fetch: one vector of weights from beyond the first-level cache, at about 26
    bytes a cycle.
    tile_overhead: set-up and loop control of one tile.
    epilogue: requantization and store of one vector, while other tiles are computed;
    epilogue_alone: more of the same, if tiles are too long to overlap in time;
    epilogue_instructions: the same in instructions. window: instructions that a CPU looks ahead.
    copy_per_byte: moving bytes into scratch memory.
    fetched_passes: of a unit's pixels; with more, waiting for weights is a small part.
    """

    few_dots: int = 10
    few_dots_cost: float = 0.03
    list_overhead: float = 1.0
    unpacking: float = 0.75
    fetch: float = 2.5
    tile_overhead: float = 2.0
    epilogue: float = 3.0
    epilogue_alone: float = 1.5
    epilogue_instructions: int = 9
    window: int = 320
    copy_per_byte: float = 1 / 16
    fetched_passes: int = 32


@dataclass(frozen=True)
class MatrixCosts:
    """Of kernels with registers of matrices, in cycles.

    dot: of full registers, if there are not many loads beside it. load, far_load: of a register,
    from a cache of the first and of the second level. fetch_per_byte: of weights, from far away.
    latency: of sums that wait for themselves. start: of a micro-kernel. pixel: finding the place of
    one. epilogue: of a pixel, by the number of vectors. copy_per_byte: to scratch memory. task:
    setting registers up. dots_per_cycle: that kernels of vector instructions reach.
    near_bytes: what stays in the first-level cache. task_bytes: of inputs, so that they stay in the
    second-level cache. fetched_passes: see `VectorCosts`.
    """

    dot: int = 20
    load: int = 9
    far_load: int = 36
    fetch_per_byte: float = 1 / 6
    latency: int = 52
    start: int = 60
    pixel: int = 4
    epilogue: Mapping[int, int] = field(default_factory=lambda: {1: 15, 2: 18, 4: 28}, hash=False)
    copy_per_byte: float = 1 / 32
    task: int = 250
    sharing: Sharing = Sharing(launch=2000, task=2000)
    dots_per_cycle: float = 1.5
    near_bytes: int = 24 * 1024
    task_bytes: int = 512 * 1024
    fetched_passes: int = 4

    def epilogue_of(self, vectors: int) -> int:
        """The least that a pixel of so many vectors takes, some of them at a time."""
        return min(ceil(vectors / each) * time for each, time in self.epilogue.items())


@dataclass(frozen=True)
class WinogradCosts:
    """Of minimal filtering, in dots but for instructions.

    transform: instructions for a vector of channels of a patch, by rows of outputs; output: the
    same until all outputs are stored. store: of a vector of sums, and its start. copy_per_byte: of
    the padded input. far: more time for patches that are beyond the second-level cache, where
    `task_bytes` of them stay. near_weights: bytes that stay there from task to task.
    fetch_per_byte: in instructions, of weights that come from far away; fetch_apart: the share of
    that which sums do not hide. fetched_passes: see `VectorCosts`.
    """

    transform: Mapping[int, int] = field(default_factory=lambda: {2: 90, 4: 300}, hash=False)
    output: Mapping[int, int] = field(default_factory=lambda: {2: 60, 4: 320}, hash=False)
    store: float = 1.0
    copy_per_byte: float = 1 / 16
    far: float = 1.15
    task_bytes: int = 384 * 1024
    near_weights: int = 256 * 1024
    fetch_per_byte: float = 0.2
    fetch_apart: float = 0.2
    fetched_passes: int = 32


@dataclass(frozen=True)
class DepthwiseCosts:
    """Of depthwise convolutions, in dots.

    epilogue: to requantize a vector of sums. split: to store one of several merged pixels.
    """

    epilogue: int = 6
    split: int = 2


@dataclass(frozen=True)
class Costs:
    """All costs of an instruction set.

    scratch_bytes: of input rows, which leaves room for weights and output in a second-level cache.
    line_bytes: of a line of the caches. memory_for_twice_the_time: bytes of weights for which a
    kernel has to take half the time.
    """

    sharing: Sharing = Sharing(launch=4000, task=2000)
    vectors: VectorCosts = VectorCosts()
    matrices: MatrixCosts = field(default_factory=MatrixCosts)
    winograd: WinogradCosts = field(default_factory=WinogradCosts)
    depthwise: DepthwiseCosts = DepthwiseCosts()
    scratch_bytes: int = 192 * 1024
    line_bytes: int = 64
    memory_for_twice_the_time: int = 16 * 1024 * 1024

    def in_dots_of(self, instructions: int, before: int) -> Costs:
        """The same times of vectors and of sharing, in dots that have not `before` instructions.

        But `fetch`, as more instructions take more weights.
        """
        share = before / instructions
        names = ("list_overhead", "unpacking", "tile_overhead", "epilogue", "epilogue_alone")
        now: dict[str, Any] = {
            name: share * getattr(self.vectors, name) for name in (*names, "copy_per_byte")
        }
        vectors = replace(self.vectors, **now)
        launch, task = (round(share * time) for time in (self.sharing.launch, self.sharing.task))
        return replace(self, vectors=vectors, sharing=Sharing(launch, task))


NEON_COSTS = Costs(
    # Counted in instructions, of which a quarter of those for 16 outputs and a copy of the bias.
    vectors=VectorCosts(
        few_dots=0,
        tile_overhead=12.0,
        epilogue=6.75,
        epilogue_alone=0.0,
        fetch=0.0,
        fetched_passes=0,
    ),
)
"""Of CPUs with vectors of 128 bits."""
