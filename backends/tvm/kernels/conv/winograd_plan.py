"""How a convolution of 3x3 without strides is cut into patches for minimal filtering (Winograd).

Transformed inputs and weights have 16 bits, so this is for instructions that multiply these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from qpc.backends.tvm.kernels.conv.conv_layout import ConvLayout
from qpc.backends.tvm.kernels.conv.filtering import FILTERINGS, Filtering
from qpc.backends.tvm.kernels.conv.tiling import Cut, Tile, tiles_that_fit
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array, TensorType
from qpc.runtime.kernel_transform import TAPS
from qpc.targets.costs import WinogradCosts

_MAX_TASKS = 64  # of an image


@dataclass(frozen=True)
class WinogradPlan(ConvLayout):
    """How the patches of a convolution are cut into tasks, and how its weights are laid out.

    Each task transforms the patches of its rows. Then, for each unit of output channels, it
    multiplies matrices of patches and input channels by those of weights, one for each place, and
    stores the outputs.
    """

    skipped: ClassVar[float] = 0.0
    _KINDS: ClassVar[dict[int, str]] = {2: "winograd-2", 4: "winograd-4"}

    out: int = 2
    """Rows and columns of the outputs of a patch."""
    chosen: Tile | None = None
    """The micro-kernel, if tuning has chosen another than the cost model: patches times vectors."""

    @classmethod
    def all_for(cls, layout: ConvLayout, weight: npt.NDArray[np.int8]) -> list[Self]:
        """A plan for each size of patches that the convolution and its instructions allow."""
        shape = layout.shape
        plain = shape.stride == shape.dilation == (1, 1) and shape.groups == 1
        if layout.isa.words is None or shape.kernel != (TAPS, TAPS) or not plain:
            return []
        return [
            cls(layout.isa, shape, layout.threads, out)
            for out, filtering in FILTERINGS.items()
            if min(shape.oh, shape.ow) >= out and filtering.fits(weight, layout.isa.activation)
        ]

    @property
    def costs(self) -> WinogradCosts:
        """What minimal filtering costs."""
        return self.isa.costs.winograd

    @cached_property
    def words(self) -> Isa:
        """The instructions that multiply and sum; the others are those of `isa`."""
        assert self.isa.words is not None
        return self.isa.words

    @property
    def filtering(self) -> Filtering:
        """The transforms."""
        return FILTERINGS[self.out]

    @cached_property
    def best(self) -> tuple[Cut, Tile]:
        """The tasks and the micro-kernel that take the least time."""
        return min(self._choices(), key=lambda choice: self._dots(*choice))

    @property
    def cut(self) -> Cut:
        """The tasks."""
        return self.best[0]

    @property
    def tile(self) -> Tile:
        """The micro-kernel."""
        return self.best[1]

    @property
    def label(self) -> Tile:
        """What tuning calls this plan."""
        return replace(self.tile, kind=self._KINDS[self.out])

    def variants(self, weight: npt.NDArray[np.int8]) -> list[Self]:
        """The plan with each micro-kernel that it can have, the best by cost first."""
        best: dict[Tile, float] = {}
        for cut, tile in self._choices():
            best[tile] = min(best.get(tile, np.inf), self._dots(cut, tile))
        return [replace(self, chosen=tile) for tile in sorted(best, key=lambda tile: best[tile])]

    def _choices(self) -> Iterator[tuple[Cut, Tile]]:
        shape = self.shape
        counts = range(1, min(ceil(shape.oh / self.out), _MAX_TASKS) + 1)
        sizes = {self.out * ceil(shape.oh / (self.out * count)) for count in counts}
        for rows in sorted({min(size, shape.oh) for size in sizes}, reverse=True):
            for images in self._image_counts(rows):
                patches = images * self.patches(rows)
                for tile in [self.chosen] if self.chosen else self._tiles(patches):
                    units = self.vectors // tile.vectors
                    for parts in range(1, self.threads + 1):
                        if units % parts == 0 and tile.pixels <= patches:
                            yield Cut(images, rows, parts), tile

    def _tiles(self, patches: int) -> list[Tile]:
        return list(tiles_that_fit(self.words, patches, self.vectors))

    def _image_counts(self, rows: int) -> list[int]:
        """How many images a task can have: several only if they are small and it has all rows."""
        most = self.shape.n if rows == self.shape.oh else 1
        most = min(most, max(1, self.costs.task_bytes // self._patch_bytes(1, rows)))
        return sorted({1, most, min(most, ceil(self.shape.n / self.threads))})

    def patches(self, rows: int) -> int:
        """Patches for `rows` rows of output; the last of a row or column overlap others."""
        return ceil(rows / self.out) * ceil(self.shape.ow / self.out)

    @property
    def task_patches(self) -> int:
        """Patches of a task."""
        return self.cut.images * self.patches(self.cut.rows)

    @cached_property
    def steps(self) -> int:
        """Number of `dot`s per sum."""
        return ceil(self.shape.c / self.words.depth)

    def _patch_bytes(self, images: int, rows: int) -> int:
        """Transformed inputs of so many rows of so many images."""
        patch = self.filtering.places * self.steps * self.words.depth * self.words.x_bytes
        return images * self.patches(rows) * patch

    def _dots(self, cut: Cut, tile: Tile) -> float:
        """Time of all tasks, one after the other in each thread, in dots."""
        shape, isa, filtering = self.shape, self.words, self.filtering
        costs = self.costs
        tasks = ceil(shape.n / cut.images) * ceil(shape.oh / cut.rows) * cut.parts
        patches = cut.images * self.patches(cut.rows)
        vectors = self.vectors // cut.parts
        tiles = ceil(patches / tile.pixels) * (vectors // tile.vectors)
        each = tile.sums_cost(isa, self.steps) + tile.dots * costs.store
        sums = tiles * filtering.places * each
        if self._patch_bytes(cut.images, cut.rows) > costs.task_bytes:
            sums *= costs.far
        chunks = ceil(shape.c / self.chunk)
        copied = cut.images * self.copied(cut.rows) * costs.copy_per_byte
        transform, output = costs.transform[self.out], costs.output[self.out]
        instructions = patches * (chunks * transform + vectors * output)
        rest = instructions / isa.dot_instructions
        turns = ceil(tasks / self.threads)
        weights = filtering.places * vectors * self.steps * isa.lanes * isa.depth * isa.x_bytes
        fetch = weights * (turns if weights > costs.near_weights else 1) * costs.fetch_per_byte
        fetch /= isa.dot_instructions
        sums, rest = turns * sums, turns * (rest + copied)
        rest += self.isa.costs.sharing.cost(tasks, self.threads)
        return max(sums, fetch) + min(sums, fetch) * costs.fetch_apart + rest

    @property
    def time(self) -> float:
        """Time in instructions of dots; see `DensePlan.time`."""
        return self._dots(*self.best) * self.words.dot_instructions

    @property
    def units(self) -> int:
        """Blocks of output channels."""
        return self.vectors // self.tile.vectors

    @property
    def saved(self) -> float:
        """The share of an ordinary convolution's `dot`s that are left out."""
        shape, rows = self.shape, self.cut.rows
        done: float = ceil(shape.oh / rows) * self.patches(rows) * self.filtering.places
        done *= self.isa.depth / self.words.depth
        return max(0.0, 1 - done / (shape.oh * shape.ow * TAPS**2))

    @cached_property
    def chunk(self) -> int:
        """Channels that are transformed at a time: a power of two, as vectors are."""
        return 1 << (min(self.shape.c, self.isa.lanes * self.words.depth).bit_length() - 1)

    def copied(self, rows: int) -> int:
        """Bytes of the padded input that `rows` rows of output of an image see."""
        shape = self.shape
        return shape.input_rows(rows) * shape.input_columns(shape.ow) * shape.c

    @property
    def patch_row(self) -> int:
        """Elements of a place of a patch: all channels."""
        return self.steps * self.words.depth

    @property
    def place_inputs(self) -> int:
        """Elements of a place of all patches of a task."""
        return self._odd_lines(self.task_patches * self.patch_row, self.words.x_bytes)

    @property
    def place_sums(self) -> int:
        """Elements of the sums of one unit of a place of all patches of a task."""
        return self._odd_lines(self.task_patches * self.tile.vectors * self.isa.lanes, 4)

    @property
    def unit_sums(self) -> int:
        """Elements of the sums of one unit of all places."""
        return self.filtering.places * self.place_sums

    @property
    def fetched(self) -> int:
        """Vectors of the next place's weights that each step fetches into a cache.

        Nothing where enough is computed with each weight to hide the time until the next arrive.
        """
        passes = ceil(self.task_patches / self.tile.pixels)
        return 0 if passes > self.costs.fetched_passes else ceil(self.tile.vectors / passes)

    def pack_weight(self, weight: npt.NDArray[np.int8]) -> tuple[Array, ...]:
        """weight[o, c, kh, kw] -> [unit, place, step, vector of tile, lane, depth]."""
        places = self.filtering.weights(weight)
        slack = self.patch_row - self.shape.c
        padded = np.pad(places, [(0, 0), (0, 0), (0, slack)]).transpose(1, 0, 2)
        vectors = self._by_vector(padded.reshape(1, *padded.shape))
        depth, lanes = self.words.depth, self.isa.lanes
        split = vectors.reshape(
            self.units, self.tile.vectors, lanes, self.filtering.places, self.steps, depth
        ).transpose(0, 3, 4, 1, 2, 5)
        return (np.ascontiguousarray(split),)

    @property
    def param_types(self) -> tuple[TensorType, ...]:
        """The types of the packed weight, bias and multiplier."""
        block = (self.tile.vectors, self.isa.lanes, self.words.depth)
        channels = (self.vectors * self.isa.lanes,)
        return (
            TensorType((self.units, self.filtering.places, self.steps, *block), "int16"),
            TensorType(channels, "int32"),
            TensorType(channels, "float32"),
        )

    def _odd_lines(self, elements: int, size: int) -> int:
        """So many elements of a size in bytes or more, in an odd number of cache lines.

        What is an even number of lines apart competes for places in a cache.
        """
        line = self.isa.costs.line_bytes
        return (ceil(elements * size / line) | 1) * line // size
