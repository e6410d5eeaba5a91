"""Winograd convolution of 3x3 without strides: by minimal filtering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil

from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.conv.conv_layout import ConvLayout
from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, Operands
from qpc.backends.tvm.kernels.conv.padding import copy_padded_rows
from qpc.backends.tvm.kernels.conv.winograd_plan import WinogradPlan
from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    Wrapping,
    bind,
    cast,
    integer,
    local,
    loop,
    scratch,
    split,
    tasks,
    wrapped_sum,
)
from qpc.backends.tvm.kernels.geometry import tile_start
from qpc.backends.tvm.kernels.isa.base import Isa

_ZERO = 16  # int32 of a cache line, of which the first is 0


@dataclass(frozen=True)
class Memory:
    """Scratch memory of a thread.

    The padded input of an image; lines of a patch, which is half transformed; transformed patches;
    sums of a unit; their lines, half transformed; accumulators of a patch.
    """

    input: Flat
    lines: Flat
    patches: Flat
    sums: Flat
    totals: Flat
    outputs: Flat

    def part(self, worker: Index, sizes: Sequence[int]) -> Memory:
        """What belongs to a worker, of memory for several."""
        each = [getattr(self, field.name) for field in fields(self)]
        return Memory(*(m.part(worker * size) for m, size in zip(each, sizes, strict=True)))


@dataclass(frozen=True)
class Rows:
    """What a task computes: images from `image` on, output rows of each from `first` on."""

    image: Index
    first: Index
    part: Index


@dataclass(frozen=True)
class WinogradConv(WinogradPlan):
    """The plan, with its code."""

    @classmethod
    def plans_for(cls, isa: Isa, layer: Convolution, threads: int) -> list[WinogradConv]:
        """A plan for each size of patches that a layer and the instructions allow."""
        return cls.all_for(ConvLayout(isa, layer.desc.shape, threads), layer.weight)

    def emit(self, operands: Operands) -> None:
        """Write the code of the convolution."""
        _Code(self, operands).emit()


@dataclass(frozen=True)
class _Code:
    """Emits the function."""

    plan: WinogradPlan
    given: Operands

    def emit(self) -> None:
        plan, cut, shape = self.plan, self.plan.cut, self.plan.shape
        image_blocks, row_blocks = ceil(shape.n / cut.images), ceil(shape.oh / cut.rows)
        count = image_blocks * row_blocks * cut.parts
        threads = min(plan.threads, count)
        filtering, unit_lanes = plan.filtering, plan.tile.vectors * plan.isa.lanes
        sizes = (
            plan.copied(cut.rows),
            filtering.places * plan.chunk,
            filtering.places * plan.place_inputs,
            plan.unit_sums + _ZERO,
            filtering.size * filtering.out * plan.isa.lanes,
            filtering.out**2 * unit_lanes,
        )
        types = (
            plan.isa.activation,
            plan.words.x_type,
            plan.words.x_type,
            "int32",
            "int32",
            "int32",
        )
        memory = Memory(*(scratch(threads * n, t) for n, t in zip(sizes, types, strict=True)))
        with tasks(count, threads) as (worker, task):
            block, row_block, part = split(task, image_blocks, row_blocks, cut.parts)
            own = memory.part(worker, sizes)
            image = bind(tile_start(block, cut.images, shape.n))
            rows = Rows(image, bind(tile_start(row_block, cut.rows, shape.oh)), part)
            own.sums.store(plan.unit_sums, integer(0))
            with loop(cut.images) as i:
                self._copy_input(own, rows, i)
                self._transform_image(own, i)
            units = plan.units // cut.parts
            with loop(units) as i:
                unit = bind(part * units + i)
                self._sum(own, unit)
                self._store(own, rows, unit)

    def _copy_input(self, memory: Memory, rows: Rows, i: Index) -> None:
        copy_padded_rows(
            self.plan.shape,
            self.given.x,
            memory.input,
            self.given.epilogue.input_zero_point(),
            image=rows.image + i,
            first_output_row=rows.first,
            output_rows=self.plan.cut.rows,
        )

    def _transform_image(self, memory: Memory, image: Index) -> None:
        """All patches of one image of the task, which is in scratch memory."""
        plan, shape = self.plan, self.plan.shape
        row = shape.input_columns(shape.ow) * shape.c
        patch_rows, patch_columns = ceil(plan.cut.rows / plan.out), ceil(shape.ow / plan.out)
        with (
            loop(patch_rows) as i,
            loop(patch_columns) as j,
            loop(ceil(shape.c / plan.chunk)) as chunk,
        ):
            channel = tile_start(chunk, plan.chunk, shape.c)
            top = tile_start(i, plan.out, plan.cut.rows)
            left = tile_start(j, plan.out, shape.ow)
            patch = (image * patch_rows + i) * patch_columns + j
            self._transform_patch(
                memory,
                bind(top * row + left * shape.c + channel),
                bind(patch * plan.patch_row + channel),
            )

    def _transform_patch(self, memory: Memory, source: Index, target: Index) -> None:
        """A vector of channels of a patch; its lines go through memory, as registers are few."""
        plan, filtering, lanes, c = (
            self.plan,
            self.plan.filtering,
            self.plan.chunk,
            self.plan.shape.c,
        )
        size, row = filtering.size, plan.shape.input_columns(plan.shape.ow) * c
        with loop(size) as y:
            start = bind(source + y * row)
            pixels = [memory.input.load(start + x * c, lanes) for x in range(size)]
            line = [bind(cast(pixel, plan.words.x_type, lanes)) for pixel in pixels]
            at = bind(y * (size * lanes))
            for x, value in enumerate(filtering.inputs(line, bind)):
                memory.lines.store(at + x * lanes, value, lanes)
        with loop(size) as x:
            at, place = bind(x * lanes), bind(target + x * plan.place_inputs)
            line = [bind(memory.lines.load(at + y * (size * lanes), lanes)) for y in range(size)]
            for y, value in enumerate(filtering.inputs(line, bind)):
                memory.patches.store(place + y * (size * plan.place_inputs), value, lanes)

    def _sum(self, memory: Memory, unit: Index) -> None:
        """The sums of a unit for all patches, place by place."""
        plan, tile, places = self.plan, self.plan.tile, self.plan.filtering.places
        count = ceil(plan.task_patches / tile.pixels)
        with loop(places) as place, loop(count) as number:
            patch = bind(tile_start(number, tile.pixels, plan.task_patches))
            self._micro_kernel(memory, bind(unit * places + place), place, patch, number)

    def _micro_kernel(
        self, memory: Memory, matrix: Index, place: Index, patch: Index, turn: Index
    ) -> None:
        """Sums of one place of the patches from `patch` on.

        matrix: number of the matrix of weights; turn: how many micro-kernels with it came before.
        """
        plan, isa, tile, lanes = self.plan, self.plan.words, self.plan.tile, self.plan.isa.lanes
        block = lanes * isa.depth
        matrix_size = plan.steps * tile.vectors * block
        x_start = bind(place * plan.place_inputs + patch * plan.patch_row)
        w_start = bind(matrix * matrix_size)
        ahead = bind((matrix + 1) * matrix_size + turn * (plan.fetched * plan.steps * block))
        sums = local(tile.dots * lanes, "int32")
        for i in range(tile.dots):
            sums.store(i * lanes, integer(0, "int32", lanes), lanes)
        with loop(plan.steps) as step:
            x_at = bind(x_start + step * isa.depth)
            w_at = bind(w_start + step * (tile.vectors * block))
            for i in range(plan.fetched):
                self.given.weight[0].fetch(ahead + (step * plan.fetched + i) * block)
            w = [
                bind(self.given.weight[0].load(w_at + v * block, block))
                for v in range(tile.vectors)
            ]
            for pixel in range(tile.pixels):
                inputs = memory.patches.load(x_at + pixel * plan.patch_row, isa.depth)
                x = bind(isa.broadcast(inputs))
                for vector in range(tile.vectors):
                    at = (pixel * tile.vectors + vector) * lanes
                    sums.store(at, isa.dot(sums.load(at, lanes), x, w[vector]), lanes)
        target = bind(place * plan.place_sums + patch * (tile.vectors * lanes))
        for at in range(0, tile.dots * lanes, lanes):
            memory.sums.store(target + at, sums.load(at, lanes), lanes)

    def _store(self, memory: Memory, rows: Rows, unit: Index) -> None:
        """The outputs of a unit for all patches.

        LLVM would load the numbers of the epilogue once, before all sums, which then lack registers
        and go through memory. So their places depend on a zero that lies behind the sums, and which
        they may have changed for all that LLVM knows.
        """
        plan, shape, out = self.plan, self.plan.shape, self.plan.out
        zero = bind(memory.sums.load(plan.unit_sums))
        epilogue, multiplier = self.given.epilogue.part(zero), self.given.multiplier.part(zero)
        patch_rows, patch_columns = ceil(plan.cut.rows / out), ceil(shape.ow / out)
        lanes = [v * plan.isa.lanes for v in range(plan.tile.vectors)]
        row_size = len(lanes) * plan.isa.lanes
        lane = bind(unit * row_size)
        starts = [bind(plan.channel(unit * len(lanes) + v)) for v in range(len(lanes))]
        with (
            loop(plan.cut.images) as image,
            loop(patch_rows) as i,
            loop(patch_columns) as j,
        ):
            patch = (image * patch_rows + i) * patch_columns + j
            source = bind(patch * row_size)
            with loop(len(lanes)) as v:
                at = bind(v * plan.isa.lanes)
                self._outputs(
                    memory, source + at, self.given.bias.load(lane + at, plan.isa.lanes), at
                )
            top = tile_start(i, out, plan.cut.rows) + rows.first
            left = tile_start(j, out, shape.ow)
            # A loop, as the code for all outputs of a patch is long, and LLVM slow with it.
            with loop(out) as y, loop(out) as x:
                place = shape.output_offset(rows.image + image, top + y)
                place = bind(place + (left + x) * shape.output_step)
                pixel_at = bind((y * out + x) * row_size)
                sums = [memory.outputs.load(pixel_at + at, plan.isa.lanes) for at in lanes]
                scale = [multiplier.load(lane + at, plan.isa.lanes) for at in lanes]
                offsets = [bind(place + start) for start in starts]
                plan.store_pixel(epilogue, self.given.out, sums, scale, offsets)

    def _outputs(self, memory: Memory, source: Index, bias: Expr, target: Index) -> None:
        """Accumulators of a vector of channels, for the outputs of a patch."""
        plan, filtering, lanes = self.plan, self.plan.filtering, self.plan.isa.lanes
        size, out, row_size = filtering.size, filtering.out, plan.tile.vectors * lanes
        shift = integer(filtering.shift, "int32", lanes)

        def line(values: Flat, start: Index, step: int) -> list[Wrapping]:
            loaded = [values.load(start + i * step, lanes) for i in range(size)]
            return [Wrapping(value, lanes).bound() for value in loaded]

        with loop(size) as y:
            start = bind(source + y * (size * plan.place_sums))
            at = bind(y * (out * lanes))
            sums = line(memory.sums, start, plan.place_sums)
            for x, value in enumerate(filtering.outputs(sums, Wrapping.bound)):
                memory.totals.store(at + x * lanes, value.value, lanes)
        with loop(out) as x:
            at = bind(target + x * row_size)
            totals = line(memory.totals, bind(x * lanes), out * lanes)
            for y, value in enumerate(filtering.outputs(totals, Wrapping.bound)):
                if filtering.inverse != 1:
                    value = value * filtering.inverse
                total = wrapped_sum(T.shift_right(value.value, shift), bias, lanes)
                memory.outputs.store(at + y * (out * row_size), total, lanes)
