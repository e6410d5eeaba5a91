"""How a depthwise convolution is cut into micro-kernels, and how its constants are laid out.

One `dot` sums `depth` kernel rows of one column, so the bytes of that many input rows are
interleaved. If there are few channels, or their number fills vectors badly, `merged` neighbouring
pixels count as one pixel with more channels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from qpc.backends.tvm.kernels.conv.tiling import Blocks, Tile, choose_blocks
from qpc.backends.tvm.kernels.emit import Index
from qpc.backends.tvm.kernels.geometry import ConvShape, tile_start
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array, TensorType

_MAX_MERGED = 8


@dataclass(frozen=True)
class DepthwiseTile:
    """A micro-kernel: `pixels` groups of `merged` consecutive outputs, one block of channels."""

    pixels: int
    merged: int


@dataclass(frozen=True)
class DepthwisePlan:
    """How a depthwise convolution is tiled and how its weights are laid out."""

    isa: Isa
    shape: ConvShape
    threads: int

    skipped: ClassVar[float] = 0.0
    saved: ClassVar[float] = 0.0

    @property
    def label(self) -> Tile:
        """What reports call the plan: pixels times neighbours that count as one."""
        return Tile(self.tile.pixels, self.tile.merged, kind="depthwise")

    def variants(self, weight: npt.NDArray[np.int8]) -> list[Self]:
        """The plan itself: no other is tried."""
        return [self]

    @property
    def time(self) -> float:
        """Time of the busiest thread in instructions of a dot; see `DensePlan.time`."""
        tasks = self.shape.n * ceil(self.shape.oh / self.blocks.rows)
        rows = ceil(tasks / self.threads) * self.blocks.rows
        dots = rows * self.row_cost(self.tile) + self.isa.costs.sharing.cost(tasks, self.threads)
        return dots * self.isa.dot_instructions

    @property
    def row_time(self) -> float:
        """Time of a row of the output with what it copies, in dots, whatever these consist of.

        By this, instructions are chosen: with so few products for each value that is loaded, it
        matters little whether a dot is made of two or three.
        """
        copied = self.shape.stride[0] * self.scratch_row * self.isa.x_bytes
        copying = copied * self.isa.costs.vectors.copy_per_byte if self.needs_scratch else 0
        return self.row_cost(self.tile) + copying

    @property
    def block(self) -> int:
        """Channels that one set of interleaved vectors holds."""
        return self.isa.lanes * self.isa.depth

    @property
    def row_groups(self) -> int:
        """Groups of kernel rows that are interleaved."""
        return ceil(self.shape.kernel[0] / self.isa.depth)

    @cached_property
    def tile(self) -> DepthwiseTile:
        """The micro-kernel that covers a row in the least time."""
        shape, isa = self.shape, self.isa
        # Beside the sums: rows, the interleaved column and a step in between, weights in a loop.
        busy = isa.depth * (3 if self.row_groups == 1 else 4)
        most_pixels = max(1, (isa.registers - busy) // isa.depth)
        follow = shape.stride[1] == 1 and self._inputs_follow
        most_merged = min(_MAX_MERGED, shape.ow) if follow else 1
        if self.splits:
            most_merged = min(most_merged, max(1, self.block // shape.c))
        tiles = [
            DepthwiseTile(pixels, merged)
            for merged in range(1, most_merged + 1)
            for pixels in range(1, min(most_pixels, shape.ow // merged) + 1)
        ]
        return min(tiles, key=lambda tile: self.row_cost(tile))

    @property
    def splits(self) -> bool:
        """Whether neighbouring outputs are apart, so that merged pixels are stored one by one."""
        return self.shape.output_step != self.shape.c

    @property
    def _inputs_follow(self) -> bool:
        """Whether neighbouring pixels follow one another where they are read, whatever the tile."""
        return self.shape.source is None or self._must_copy or self.shape.c < self.block

    @property
    def _must_copy(self) -> bool:
        """Whether pixels cannot be read where they are."""
        return any(self.shape.padding) or self.isa.x_type != self.isa.activation

    def row_cost(self, tile: DepthwiseTile) -> float:
        """Time of a row of the output in dots."""
        shape, isa, costs = self.shape, self.isa, self.isa.costs.depthwise
        blocks = ceil(shape.c * tile.merged / self.block)
        dots = tile.pixels * shape.kernel[1] * isa.depth
        columns = len(self.taps(tile)) * isa.interleave_cost
        stores = tile.pixels * tile.merged * costs.split if self.splits and tile.merged > 1 else 0
        outputs = tile.pixels * isa.depth * costs.epilogue
        tile_cost = stores + self.row_groups * (dots + columns) + outputs + 8
        return ceil(shape.ow / (tile.pixels * tile.merged)) * blocks * tile_cost

    def taps(self, tile: DepthwiseTile) -> dict[int, list[tuple[int, int]]]:
        """For every input column that a tile sees, the (pixel, kernel column) that it meets."""
        step = self.shape.stride[1] * tile.merged
        taps = defaultdict(list)
        for pixel in range(tile.pixels):
            for tap in range(self.shape.kernel[1]):
                taps[pixel * step + tap * self.shape.dilation[1]].append((pixel, tap))
        return dict(sorted(taps.items()))

    @property
    def channels(self) -> int:
        """Channels of a group of merged pixels."""
        return self.shape.c * self.tile.merged

    @property
    def channel_blocks(self) -> int:
        """Number of blocks of channels."""
        return ceil(self.channels / self.block)

    @property
    def lanes(self) -> int:
        """Channels of a block that exist."""
        return min(self.block, self.channels)

    @property
    def tile_columns(self) -> int:
        """Outputs of a row that a tile computes."""
        return self.tile.pixels * self.tile.merged

    @property
    def needs_scratch(self) -> bool:
        """Whether the input cannot be read in place."""
        few = self.channels < self.block
        apart = self.shape.source is not None and self.tile.merged > 1
        return self._must_copy or few or apart

    @property
    def x_step(self) -> int:
        """Distance between neighbouring pixels of a row where they are read."""
        return self.shape.c if self.needs_scratch else self.shape.images.step

    @property
    def scratch_row(self) -> int:
        """Bytes of an input row in scratch memory."""
        return self.shape.input_columns(self.shape.ow) * self.shape.c

    @property
    def scratch_size(self) -> int:
        """Elements of the scratch memory, with room to read a whole block at the last pixel."""
        return self.shape.input_rows(self.blocks.rows) * self.scratch_row + self.block

    @cached_property
    def blocks(self) -> Blocks:
        """The tasks."""
        return choose_blocks(
            images=self.shape.n,
            rows=self.shape.oh,
            channel_blocks=1,
            row_cost=self.row_cost(self.tile),
            bytes_per_row=self.shape.stride[0] * self.scratch_row * self.isa.x_bytes,
            extra_bytes=(self.shape.reach[0] - self.shape.stride[0])
            * self.scratch_row
            * self.isa.x_bytes,
            copies=self.needs_scratch,
            threads=self.threads,
            costs=self.isa.costs,
        )

    def first_channel(self, block: Index) -> Index:
        """The first channel of a block; the last block may overlap."""
        return 0 if self.channel_blocks == 1 else tile_start(block, self.block, self.channels)

    def pack_weight(self, weight: npt.NDArray[np.int8]) -> tuple[Array, ...]:
        """weight[c, 1, kh, kw] -> [block, row group, kw, vector, lane, depth]."""
        kh, kw = self.shape.kernel
        missing = self.row_groups * self.isa.depth - kh
        rows = np.pad(weight[:, 0], [(0, 0), (0, missing), (0, 0)])
        grouped = rows.reshape(self.shape.c, self.row_groups, self.isa.depth, kw)
        packed = self._by_lane(grouped).astype(np.int8, copy=False).transpose(0, 3, 5, 1, 2, 4)
        return (np.ascontiguousarray(self.isa.arranged(packed), self.isa.w_type),)

    def pack_channels(self, values: Array) -> Array:
        """values[c] -> [block * vector * lane]."""
        return np.ascontiguousarray(self._by_lane(values)).reshape(-1)

    def _by_lane(self, values: Array) -> Array:
        """[c, ...] -> [block, vector, lane, ...], with zeros in unused lanes."""
        starts = np.array([self.first_channel(block) for block in range(self.channel_blocks)])
        channels = starts[:, None, None] + self.isa.interleaved_channels()
        merged = np.concatenate([values] * self.tile.merged)
        unused = max(0, self.block - self.channels)
        return np.pad(merged, [(0, unused)] + [(0, 0)] * (values.ndim - 1))[channels]

    @property
    def param_types(self) -> tuple[TensorType, ...]:
        """The types of the packed weight, bias and multiplier."""
        vector = (self.isa.depth, self.isa.lanes, self.isa.depth)
        size = self.channel_blocks * self.block
        return (
            TensorType(
                (self.channel_blocks, self.row_groups, self.shape.kernel[1], *vector),
                self.isa.w_type,
            ),
            TensorType((size,), "int32"),
            TensorType((size,), "float32"),
        )
