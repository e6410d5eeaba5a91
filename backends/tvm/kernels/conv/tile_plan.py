"""How a dense convolution is cut into micro-kernels with registers of matrices.

Which of them are chosen, by what they cost, and where their weights and outputs are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import ceil
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from qpc.backends.tvm.kernels.conv.tile_layout import TileLayout
from qpc.backends.tvm.kernels.conv.tiling import Cut, Tile
from qpc.backends.tvm.kernels.emit import Index
from qpc.backends.tvm.kernels.isa.matrices import TileShape
from qpc.backends.tvm.kernels.kernel import Array, TensorType
from qpc.targets.costs import MatrixCosts

_MAX_TASKS = 64  # of an image

NOWHERE = -1
"""The place of a pixel that is dropped."""


@dataclass(frozen=True)
class TilePlan(TileLayout):
    """How a convolution is tiled and how its weights are laid out."""

    block: tuple[int, int] | None = None
    """Parts of pixels and vectors of channels of a micro-kernel, if tuning has chosen them."""

    skipped: ClassVar[float] = 0.0
    saved: ClassVar[float] = 0.0

    @property
    def costs(self) -> MatrixCosts:
        """What matrices cost."""
        return self.isa.costs.matrices

    @cached_property
    def chosen(self) -> tuple[Cut, TileShape]:
        """The tasks and the registers of the micro-kernel that take the least time."""
        return min(self._choices(), key=lambda choice: self._cycles(*choice))

    @property
    def cut(self) -> Cut:
        """The tasks."""
        return self.chosen[0]

    @property
    def tile(self) -> TileShape:
        """The registers of the micro-kernel."""
        return self.chosen[1]

    @property
    def label(self) -> Tile:
        """What tuning calls this plan."""
        return Tile(self.tile.parts, self.tile.vectors, kind="matrices")

    def variants(self, weight: npt.NDArray[np.int8]) -> list[Self]:
        """The plan with each block of registers that it can have, whatever the weights."""
        plans = [replace(self, block=block) for block in self.sizes.blocks]
        return [plan for plan in plans if next(plan._choices(), None) is not None]

    def _choices(self) -> Iterator[tuple[Cut, TileShape]]:
        counts = range(1, min(self.rows, _MAX_TASKS) + 1)
        sizes = sorted({ceil(self.rows / count) for count in counts}, reverse=True)
        blocks = [self.block] if self.block else self.sizes.blocks
        for rows, (parts, vectors) in product(sizes, blocks):
            if self.vectors % vectors or parts > self.positions(rows):
                continue
            each = self.positions(rows) / parts
            pixels = min(int(each) if self.in_place else ceil(each), self.sizes.pixels)
            tile = TileShape(self.sizes, parts, vectors, pixels, self.run, self.per_vector)
            units = self.groups * self.vectors // vectors
            for channel_parts in range(1, self.threads + 1):
                if units % channel_parts == 0:
                    for images in self._image_counts(rows):
                        yield Cut(images, rows, channel_parts), tile

    def _image_counts(self, rows: int) -> list[int]:
        """How many images a task can have: several only if they are small and it has all rows."""
        most = self.images if rows == self.rows else 1
        most = min(most, max(1, self.costs.task_bytes // self._input_bytes(rows)))
        return sorted({1, most, min(most, ceil(self.images / self.threads))})

    def _input_bytes(self, rows: int) -> int:
        """What a task reads of an image."""
        planes = 1 if self.in_place else len(self.remainders)
        return planes * self.plane_bytes(rows)

    def _cycles(self, cut: Cut, tile: TileShape) -> float:
        """Time of all tasks, one after the other in each thread."""
        tasks = ceil(self.images / cut.images) * ceil(self.rows / cut.rows) * cut.parts
        units = self.groups * self.vectors // tile.vectors // cut.parts
        size = cut.images * self._input_bytes(cut.rows)
        micro_kernel = self._tile_cycles(tile, size)
        # Weights come from far away once per task, and may keep the first micro-kernel waiting.
        fetch = self.steps * tile.columns * tile.weights_size * self.costs.fetch_per_byte
        others = cut.images * self._tiles(cut, tile) - 1
        cycles = units * (max(micro_kernel, fetch) + others * micro_kernel)
        if not self.in_place:
            cycles += size * self.costs.copy_per_byte
        if size > self.costs.task_bytes:
            cycles *= 1.25
        sharing = self.costs.sharing.cost(tasks, self.threads)
        return ceil(tasks / self.threads) * (cycles + self.costs.task) + sharing

    def _tile_cycles(self, tile: TileShape, input_bytes: int) -> float:
        near = tile.weights_size * tile.columns * self.steps <= self.costs.near_bytes
        w_load = self.costs.load if near else self.costs.far_load
        seen_again = self.shape.kernel != (1, 1) or input_bytes <= self.costs.near_bytes
        x_load = self.costs.load if seen_again else self.costs.far_load
        loads = tile.parts * x_load + tile.columns * w_load
        sums = self.steps * max(tile.sums * self.costs.dot, loads, self.costs.latency)
        outputs = (
            tile.parts * tile.pixels * (self.costs.pixel + self.costs.epilogue_of(tile.vectors))
        )
        # Both at the same time, if there are enough steps to go side by side.
        return max(sums, outputs) + min(sums, outputs) / 2 + self.costs.start

    @property
    def time(self) -> float:
        """Time in instructions, `dot`s of vectors; see `DensePlan.time`."""
        block = self.isa.lanes * self.isa.depth
        weights = self.units * self.unit_weights
        cycles = self._cycles(*self.chosen)
        fetch = weights / block * self.isa.costs.vectors.fetch
        return max(cycles * self.costs.dots_per_cycle, fetch)

    @property
    def units(self) -> int:
        """Blocks of output channels, each computed by one micro-kernel per tile of pixels."""
        return self.groups * self.vectors // self.tile.vectors

    @property
    def tile_positions(self) -> int:
        """Pixels of a micro-kernel, with those that are dropped."""
        return self.tile.parts * self.tile.pixels

    @property
    def tiles(self) -> int:
        """Micro-kernels that a task needs for the pixels of one image and one unit."""
        return self._tiles(self.cut, self.tile)

    def _tiles(self, cut: Cut, tile: TileShape) -> int:
        return ceil(self.positions(cut.rows) / (tile.parts * tile.pixels))

    @property
    def unit_weights(self) -> int:
        """Bytes of weights of a unit."""
        return self.steps * self.tile.columns * self.tile.weights_size

    @property
    def fetched(self) -> int:
        """Bytes of the next unit's weights that each step fetches into a cache.

        Nothing where enough is computed with each weight to hide the time until the next arrive.
        """
        passes = self.cut.images * self.tiles
        if passes > self.costs.fetched_passes or self.units == self.cut.parts:
            return 0
        line = self.isa.costs.line_bytes
        return ceil(self.unit_weights / (passes * self.steps) / line) * line

    @property
    def image_scratch(self) -> int:
        """Bytes of scratch memory of an image, with what is read for pixels that are dropped."""
        last = max(self.positions(self.cut.rows), self.tile_positions) - 1
        group = (self.groups - 1) * self.group_inputs
        read = last * self.x_step + int(self._term_places.max()) + group + self.run
        size = max(read, len(self.remainders) * self.plane_bytes(self.cut.rows))
        return ceil(size / self.sizes.run) * self.sizes.run

    def input_offset(self, image: Index, row: Index) -> Index:
        """Where a row of the input begins that is read in place."""
        height = self.rows if self.is_matrix_product else self.shape.h
        return (image * height + row) * (self.pitch * self.x_step) + self.shape.images.first

    def output_offset(self, image: Index, row: Index) -> Index:
        """Where a row of the output begins."""
        if self.is_matrix_product:
            first = self.shape.places.first if self.shape.places else 0
            return row * self.shape.output_step + first
        return self.shape.output_offset(image, row)

    @property
    def follows(self) -> bool:
        """Whether no pixel is dropped and all are equally far apart in the output."""
        row = self._output_row == self.columns * self.shape.output_step
        return self.gap == 0 and row and self.positions(self.cut.rows) >= self.tile_positions

    @property
    def _output_row(self) -> int:
        if self.is_matrix_product:
            return self.shape.output_step
        return int(self.shape.output_offset(0, 1)) - int(self.shape.output_offset(0, 0))

    @property
    def pixel_places(self) -> npt.NDArray[np.int32]:
        """Where each pixel of a task goes, counted from its first output, or `NOWHERE`."""
        count = self.positions(self.cut.rows)
        row, column = np.divmod(np.arange(max(count, self.tile_positions)), self.pitch)
        places = row * self._output_row + column * self.shape.output_step
        dropped = (column >= self.columns) | (row >= self.cut.rows)
        return np.where(dropped, NOWHERE, places).astype(np.int32)

    @property
    def _term_places(self) -> npt.NDArray[np.int64]:
        """Where the bytes of each `dot` begin, counted from those of the first."""
        kh, (dh, dw), sh = self.shape.kernel[0], self.shape.dilation, self.shape.stride[0]
        row, remainder = np.divmod(np.arange(kh) * dh, sh)
        planes = np.searchsorted(self.remainders, remainder) * self.plane_bytes(self.cut.rows)
        rows = planes + row * (self.pitch * self.x_step)
        runs = np.arange(self.runs) * (dw * self.shape.c)
        places: npt.NDArray[np.int64] = rows[:, None, None] + runs[:, None] + self.run_starts
        return places.reshape(-1)

    def pack_weight(self, weight: npt.NDArray[np.int8]) -> tuple[Array, ...]:
        """weight[o, c // groups, kh, kw] -> [unit, step, column, run / depth, lane, depth].

        With the places of terms and, unless `follows`, of pixels, and what `MatrixTiles.open` asks.
        """
        runs = self.runs_of_weights(weight)
        terms = np.zeros((*runs.shape[:-1], self.run_steps, self.run), np.int8)
        for step, start in enumerate(self.run_starts):
            first, end = step * self.run, min((step + 1) * self.run, self.run_bytes)
            terms[..., step, first - start : end - start] = runs[..., first:end]
        units, steps, columns, rows, lanes, depth = self._weight_shape
        packed = terms.reshape(units, columns, lanes, steps, rows, depth)
        packed = packed.transpose(0, 3, 1, 4, 2, 5)
        config = self.matrices.config(self.tile)
        places = self._term_places.astype(np.int32)
        pixels = () if self.follows else (self.pixel_places,)
        return (np.ascontiguousarray(packed), config, places, *pixels)

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        rows = self.run // self.sizes.depth
        return self.units, self.steps, self.tile.columns, rows, self.sizes.lanes, self.sizes.depth

    @property
    def param_types(self) -> tuple[TensorType, ...]:
        """The types of what `pack_weight` gives, bias and multiplier."""
        pixels = () if self.follows else (TensorType(self.pixel_places.shape, "int32"),)
        channels = self.units * self.tile.vectors * self.isa.lanes
        return (
            TensorType(self._weight_shape, "int8"),
            TensorType((64,), "uint8"),
            TensorType((self.steps,), "int32"),
            *pixels,
            TensorType((channels,), "int32"),
            TensorType((channels,), "float32"),
        )
