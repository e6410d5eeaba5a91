"""Quantized depthwise 2-d convolution, exact, on NHWC tensors: vectors run over channels.

One `dot` sums `depth` kernel rows of one column, so the bytes of that many input rows are
interleaved. A column is interleaved once and used by all horizontal taps of the pixels of a tile.
If there are few channels, or their number fills vectors badly, `merged` neighbouring pixels count
as one pixel with more channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, Operands
from qpc.backends.tvm.kernels.conv.depthwise_plan import DepthwisePlan
from qpc.backends.tvm.kernels.conv.padding import copy_padded_rows
from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    integer,
    local,
    loop,
    scratch,
    shuffle,
    split,
    tasks,
)
from qpc.backends.tvm.kernels.geometry import tile_start
from qpc.backends.tvm.kernels.isa.base import Isa

_MOST_ROWS = 4  # that are interleaved, and summed by a `dot`


@dataclass(frozen=True)
class DepthwiseConv(DepthwisePlan):
    """The plan, with its code."""

    @classmethod
    def for_layer(cls, isa: Isa, layer: Convolution, threads: int) -> DepthwiseConv:
        """The plan for a layer with one group per input and output channel."""
        rows = layer.weight[:, 0].transpose(0, 2, 1)  # kernel rows are summed together
        by_rows = isa.by_rows
        if layer.desc.c < by_rows.lanes and not by_rows.stores_parts:
            by_rows = isa.joining
        found = by_rows.exact_for(rows, layer.constants.greatest, deepest=_MOST_ROWS)
        plans = [cls(exact, layer.desc.shape, threads) for exact in found]
        return min(plans, key=lambda plan: plan.row_time)

    def emit(self, operands: Operands) -> None:
        """Write the code of the convolution."""
        _Code(self, operands).emit()


@dataclass(frozen=True)
class _Code:
    """Emits the function."""

    plan: DepthwisePlan
    given: Operands

    def emit(self) -> None:
        plan, shape = self.plan, self.plan.shape
        row_blocks = ceil(shape.oh / plan.blocks.rows)
        count = shape.n * row_blocks
        threads = min(plan.threads, count)
        source = (
            scratch(plan.scratch_size * threads, plan.isa.x_type)
            if plan.needs_scratch
            else self.given.x
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
                self.given.x,
                source,
                self.given.epilogue.input_zero_point(),
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
            start = bind(self.given.bias.load(lane_start + vector * lanes, lanes))
            for pixel in pixels:
                sums.store((pixel * depth + vector) * lanes, start, lanes)

        with loop(plan.row_groups) as group:
            # What stands for a missing row does not matter: its weights are zero.
            rows = [
                bind(x_start + row * (shape.dilation[0] * x_next_row))
                for row in (self._kernel_row(group, i) for i in range(depth))
                if row is not None
            ]
            missing = [integer(0, source.dtype, plan.block)] * (depth - len(rows))
            # Bound, so that each address below is a variable plus a constant: quick to compile.
            terms = (block * plan.row_groups + group) * shape.kernel[1]
            w_start = bind(terms * (depth * plan.block))
            weights: dict[int, Expr] = {}

            def weight(
                place: int, weights: dict[int, Expr] = weights, start: Index = w_start
            ) -> Expr:
                """Loaded once: in C no two loads are known to give the same."""
                if place not in weights:
                    weights[place] = bind(self.given.weight[0].load(start + place, plan.block))
                return weights[place]

            for column, taps in plan.taps(plan.tile).items():
                there = [bind(source.load(row + column * plan.x_step, plan.block)) for row in rows]
                x = isa.interleave([*there, *missing])
                for pixel, tap in taps:
                    for vector in range(depth):
                        at = (pixel * depth + vector) * lanes
                        w = weight((tap * depth + vector) * plan.block)
                        sums.store(at, isa.dot(sums.load(at, lanes), x[vector], w), lanes)

        scale = [
            bind(self.given.multiplier.load(lane_start + vector * lanes, lanes))
            for vector in range(depth)
        ]
        for pixel in pixels:
            totals = [sums.load((pixel * depth + vector) * lanes, lanes) for vector in range(depth)]
            place = out_start + pixel * (plan.tile.merged * shape.output_step)
            if self.given.epilogue.form.real:
                self._store_reals(totals, scale, place)
                continue
            value = self._activations(totals, scale, place)
            if plan.lanes < plan.block:
                value = shuffle([value], range(plan.lanes))
            self._store(value, place)

    def _activations(self, totals: list[Expr], scale: list[Expr], offset: Index) -> Expr:
        """The bytes of a group of merged pixels, in order."""
        plan, shape, epilogue = self.plan, self.plan.shape, self.given.epilogue
        if not epilogue.form.joins:
            return epilogue.requantized(totals, scale, in_order=False)
        if plan.splits and plan.tile.merged > 1:
            places = [offset + i * shape.output_step for i in range(plan.tile.merged)]
            parts = [epilogue.other(place, shape.c) for place in places]
        else:
            parts = [epilogue.other(offset, plan.lanes)]
        # TVM takes no more lanes than there are, so that three channels stand there twice.
        parts *= -(-plan.isa.lanes // plan.lanes)
        order = np.minimum(plan.isa.interleaved_channels(), plan.lanes - 1)
        others = [shuffle(parts, lanes) for lanes in order.tolist()]
        return epilogue.joined(totals, scale, others, in_order=False)

    def _store_reals(self, totals: list[Expr], scale: list[Expr], offset: Index) -> None:
        """Store the float32 values of a group of merged pixels, channel after channel."""
        plan, shape, lanes = self.plan, self.plan.shape, self.plan.isa.lanes
        values = [
            self.given.epilogue.real(total, factor)
            for total, factor in zip(totals, scale, strict=True)
        ]
        order = np.argsort(plan.isa.interleaved_channels().reshape(-1)).tolist()
        pixels = [(0, plan.lanes)]
        if plan.splits and plan.tile.merged > 1:
            pixels = [(i * shape.c, shape.c) for i in range(plan.tile.merged)]
        for pixel, (first, count) in enumerate(pixels):
            for start in range(0, count, lanes):
                size = min(lanes, count - start)
                channels = order[first + start : first + start + size]
                place = offset + (pixel * shape.output_step + start)
                self.given.out.store(place, shuffle(values, channels), size)

    def _store(self, value: Expr, offset: Index) -> None:
        """Store the bytes of a group of merged pixels, of which the first goes to `offset`."""
        plan, shape = self.plan, self.plan.shape
        if not plan.splits or plan.tile.merged == 1:
            self.given.out.store(
                offset, self.given.epilogue.stages(value, offset, plan.lanes), plan.lanes
            )
            return
        adds = self.given.epilogue.form.adds > 0  # what is added is as far apart as the outputs
        value = bind(value) if adds else self.given.epilogue.stages(value, offset, plan.lanes)
        for pixel in range(plan.tile.merged):
            part = shuffle([value], range(pixel * shape.c, (pixel + 1) * shape.c))
            place = offset + pixel * shape.output_step
            if adds:
                part = self.given.epilogue.stages(part, place, shape.c)
            self.given.out.store(place, part, shape.c)

    def _kernel_row(self, group: Index, i: int) -> Index | None:
        """The row of the kernel that is the i-th of a group; None if there is none.

        Of several groups the code is one, and the last row stands for those behind it. Where it
        is known that rows are missing, the same one in several places lets LLVM swap them for ever.
        """
        last = self.plan.shape.kernel[0] - 1
        row = group * self.plan.isa.depth + i
        if isinstance(row, int):
            return row if row <= last else None
        return T.min(row, last) if (last + 1) % self.plan.isa.depth else row
