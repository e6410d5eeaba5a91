"""Quantized depthwise 2-d convolution, exact, on NHWC tensors: vectors run over channels.

One `dot` sums `depth` kernel rows of one column, so the bytes of that many input rows are
interleaved. A column is interleaved once and used by all horizontal taps of the pixels of a tile.
If there are few channels, or their number fills vectors badly, `merged` neighbouring pixels count
as one pixel with more channels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache, cached_property
from math import ceil

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.conv.padding import copy_padded_rows
from qpc.backends.tvm.kernels.conv.tiling import Blocks, choose_blocks
from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    local,
    loop,
    prim_func,
    scratch,
    shuffle,
    split,
    tasks,
)
from qpc.backends.tvm.kernels.epilogue import Epilogue, EpilogueCode, EpilogueForm, epilogue_params
from qpc.backends.tvm.kernels.geometry import Conv2dDesc, ConvShape, tile_start
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array, Kernel, TensorType, kernel_name

_MAX_MERGED = 8
_EPILOGUE = 6  # time to requantize one vector of sums, in dots
_SPLIT = 2  # time to store one of several merged pixels, in dots


def depthwise_conv2d(
    isa: Isa,
    desc: Conv2dDesc,
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.float32],
    epilogue: Epilogue = (),
    threads: int = 1,
) -> Kernel:
    """The kernel of `qpc::conv2d` with one group per input and output channel; see `conv2d`."""
    plan = _Plan(isa.for_weights(weight), desc.shape, threads)
    form = EpilogueForm.of(epilogue, multiplier)
    name, func = _function(plan, form, desc.output)
    zero_point_term = desc.input_zero_point * weight.sum(axis=(1, 2, 3), dtype=np.int64)
    params = (
        plan.pack_weight(weight),
        # Sums may wrap around in between: the compiler has proved that the accumulator does not.
        plan.pack_channels((bias - zero_point_term).astype(np.int32)),
        plan.pack_channels(multiplier.astype(np.float32)),
        *epilogue_params(
            desc.input_zero_point,
            desc.output_zero_point,
            desc.lo,
            desc.hi,
            epilogue,
            isa.activation,
        ),
    )
    inputs = (desc.input, *form.inputs(desc.output))
    return Kernel(name, func, inputs, params, desc.output)


@dataclass(frozen=True)
class _Tile:
    """A micro-kernel: `pixels` groups of `merged` consecutive outputs, one block of channels."""

    pixels: int
    merged: int


@dataclass(frozen=True)
class _Plan:
    """How a depthwise convolution is tiled and how its weights are laid out."""

    isa: Isa
    shape: ConvShape
    threads: int

    @property
    def block(self) -> int:
        """Channels that one set of interleaved vectors holds."""
        return self.isa.lanes * self.isa.depth

    @property
    def row_groups(self) -> int:
        """Groups of kernel rows that are interleaved."""
        return ceil(self.shape.kernel[0] / self.isa.depth)

    @cached_property
    def tile(self) -> _Tile:
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
            _Tile(pixels, merged)
            for merged in range(1, most_merged + 1)
            for pixels in range(1, min(most_pixels, shape.ow // merged) + 1)
        ]
        return min(tiles, key=lambda tile: self._row_cost(tile))

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

    def _row_cost(self, tile: _Tile) -> float:
        shape, isa = self.shape, self.isa
        blocks = ceil(shape.c * tile.merged / self.block)
        dots = tile.pixels * shape.kernel[1] * isa.depth
        columns = len(self.taps(tile)) * isa.interleave_cost
        stores = tile.pixels * tile.merged * _SPLIT if self.splits and tile.merged > 1 else 0
        tile_cost = (
            stores + self.row_groups * (dots + columns) + tile.pixels * isa.depth * _EPILOGUE + 8
        )
        return ceil(shape.ow / (tile.pixels * tile.merged)) * blocks * tile_cost

    def taps(self, tile: _Tile) -> dict[int, list[tuple[int, int]]]:
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
            row_cost=self._row_cost(self.tile),
            bytes_per_row=self.shape.stride[0] * self.scratch_row * self.isa.x_bytes,
            extra_bytes=(self.shape.reach[0] - self.shape.stride[0])
            * self.scratch_row
            * self.isa.x_bytes,
            copies=self.needs_scratch,
            threads=self.threads,
        )

    def first_channel(self, block: Index) -> Index:
        """The first channel of a block; the last block may overlap."""
        return 0 if self.channel_blocks == 1 else tile_start(block, self.block, self.channels)

    def pack_weight(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """weight[c, 1, kh, kw] -> [block, row group, kw, vector, lane, depth]."""
        kh, kw = self.shape.kernel
        missing = self.row_groups * self.isa.depth - kh
        rows = np.pad(weight[:, 0], [(0, 0), (0, missing), (0, 0)])
        grouped = rows.reshape(self.shape.c, self.row_groups, self.isa.depth, kw)
        packed = self._by_lane(grouped).transpose(0, 3, 5, 1, 2, 4)
        return np.ascontiguousarray(packed, self.isa.w_type)

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


@cache
def _function(plan: _Plan, form: EpilogueForm, out_type: TensorType) -> tuple[str, PrimFunc]:
    name = kernel_name("depthwise_conv2d", plan, form, out_type)
    added = form.inputs(out_type)

    def body(x: Flat, *args: Flat) -> None:
        others, rest = args[: len(added)], args[len(added) :]
        weight, bias, multiplier, constants, *tables, out = rest
        epilogue = EpilogueCode(plan.isa, form, constants, others, tables)
        _Code(plan, x, weight, bias, multiplier, epilogue, out).emit()

    types = (
        plan.shape.input,
        *added,
        *plan.param_types,
        *form.params(plan.isa.activation),
        out_type,
    )
    return name, prim_func(name, types, body)


@dataclass(frozen=True)
class _Code:
    """Emits the function."""

    plan: _Plan
    x: Flat
    weight: Flat
    bias: Flat
    multiplier: Flat
    epilogue: EpilogueCode
    out: Flat

    def emit(self) -> None:
        plan, shape = self.plan, self.plan.shape
        row_blocks = ceil(shape.oh / plan.blocks.rows)
        count = shape.n * row_blocks
        threads = min(plan.threads, count)
        source = (
            scratch(plan.scratch_size * threads, plan.isa.x_type) if plan.needs_scratch else self.x
        )
        with tasks(count, threads) as (worker, task):
            image, row_block = split(task, shape.n, row_blocks)
            own = source.part(worker * plan.scratch_size) if plan.needs_scratch else source
            self._task(own, image, row_block)

    def _task(self, source: Flat, image: Index, row_block: Index) -> None:
        plan, shape = self.plan, self.plan.shape
        rows = plan.blocks.rows
        first = tile_start(row_block, rows, shape.oh)
        if plan.needs_scratch:
            copy_padded_rows(
                shape,
                self.x,
                source,
                self.epilogue.input_zero_point(),
                image=image,
                first_output_row=first,
                output_rows=rows,
            )
        column_tiles = ceil(shape.ow / plan.tile_columns)
        with loop(plan.channel_blocks) as block, loop(rows) as row, loop(column_tiles) as tile:
            column = tile_start(tile, plan.tile_columns, shape.ow)
            if plan.needs_scratch:
                x_row, x_next = row * shape.stride[0] * plan.scratch_row, plan.scratch_row
            else:
                x_row = shape.images.offset(image, (first + row) * shape.stride[0])
                x_next = shape.w * plan.x_step
            out_row = shape.output_offset(image, first + row)
            channel = plan.first_channel(block)
            self._micro_kernel(
                source,
                block,
                bind(x_row + column * (shape.stride[1] * plan.x_step) + channel),
                x_next,
                bind(out_row + column * shape.output_step + channel),
            )

    def _micro_kernel(
        self, source: Flat, block: Index, x_start: Index, x_next_row: int, out_start: Index
    ) -> None:
        plan, isa, shape = self.plan, self.plan.isa, self.plan.shape
        depth, lanes = isa.depth, isa.lanes
        pixels = range(plan.tile.pixels)
        lane_start = bind(block * plan.block)
        sums = local(plan.tile.pixels * depth * lanes, "int32")

        for vector in range(depth):
            start = bind(self.bias.load(lane_start + vector * lanes, lanes))
            for pixel in pixels:
                sums.store((pixel * depth + vector) * lanes, start, lanes)

        with loop(plan.row_groups) as group:
            # A missing row is a repeated one: its weights are zero.
            rows = [
                bind(x_start + self._kernel_row(group, i) * (shape.dilation[0] * x_next_row))
                for i in range(depth)
            ]
            # Bound, so that each address below is a variable plus a constant: quick to compile.
            terms = (block * plan.row_groups + group) * shape.kernel[1]
            w_start = bind(terms * (depth * plan.block))
            for column, taps in plan.taps(plan.tile).items():
                x = isa.interleave(
                    [bind(source.load(row + column * plan.x_step, plan.block)) for row in rows]
                )
                for pixel, tap in taps:
                    for vector in range(depth):
                        at = (pixel * depth + vector) * lanes
                        w_at = w_start + (tap * depth + vector) * plan.block
                        w = self.weight.load(w_at, plan.block)
                        sums.store(at, isa.dot(sums.load(at, lanes), x[vector], w), lanes)

        scale = [
            bind(self.multiplier.load(lane_start + vector * lanes, lanes))
            for vector in range(depth)
        ]
        for pixel in pixels:
            totals = [sums.load((pixel * depth + vector) * lanes, lanes) for vector in range(depth)]
            value = self.epilogue.requantized(totals, scale, in_order=False)
            if plan.lanes < plan.block:
                value = shuffle([value], range(plan.lanes))
            self._store(value, out_start + pixel * (plan.tile.merged * shape.output_step))

    def _store(self, value: Expr, offset: Index) -> None:
        """Store the bytes of a group of merged pixels, of which the first goes to `offset`."""
        plan, shape = self.plan, self.plan.shape
        if not plan.splits or plan.tile.merged == 1:
            self.out.store(offset, self.epilogue.stages(value, offset, plan.lanes), plan.lanes)
            return
        adds = len(self.epilogue.added) > 0  # what is added is as far apart as the outputs
        value = bind(value) if adds else self.epilogue.stages(value, offset, plan.lanes)
        for pixel in range(plan.tile.merged):
            part = shuffle([value], range(pixel * shape.c, (pixel + 1) * shape.c))
            place = offset + pixel * shape.output_step
            if adds:
                part = self.epilogue.stages(part, place, shape.c)
            self.out.store(place, part, shape.c)

    def _kernel_row(self, group: Index, i: int) -> Index:
        last = self.plan.shape.kernel[0] - 1
        row = group * self.plan.isa.depth + i
        if isinstance(row, int):
            return min(row, last)
        return T.min(row, last) if (last + 1) % self.plan.isa.depth else row
