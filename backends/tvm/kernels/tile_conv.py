"""Dense convolution with registers of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from qpc.backends.tvm.kernels.emit import Flat, Index, bind, loop, scratch, split, tasks, when
from qpc.backends.tvm.kernels.epilogue import EpilogueCode
from qpc.backends.tvm.kernels.geometry import tile_start
from qpc.backends.tvm.kernels.matrix_tiles import Registers
from qpc.backends.tvm.kernels.padding import copy_rows
from qpc.backends.tvm.kernels.tile_plan import TilePlan


@dataclass(frozen=True)
class TileCode:
    """Emits the function; `packed` is what `TilePlan.pack_weight` gives."""

    plan: TilePlan
    x: Flat
    packed: Sequence[Flat]
    bias: Flat
    multiplier: Flat
    epilogue: EpilogueCode
    out: Flat

    def emit(self) -> None:
        plan, cut, tile = self.plan, self.plan.cut, self.plan.tile
        assert plan.isa.tiles is not None
        image_blocks, row_blocks = ceil(plan.images / cut.images), ceil(plan.rows / cut.rows)
        count = image_blocks * row_blocks * cut.parts
        threads = min(plan.threads, count)
        sums_size, x_size = tile.sums * tile.sums_size, cut.images * plan.image_scratch
        sums = scratch(threads * sums_size, "int32")
        source = self.x if plan.in_place else scratch(threads * x_size)
        with tasks(count, threads) as (worker, task):
            block, row_block, part = split(task, image_blocks, row_blocks, cut.parts)
            image = tile_start(block, cut.images, plan.images)
            row = tile_start(row_block, cut.rows, plan.rows)
            own = source if plan.in_place else source.part(worker * x_size)
            memory = sums.part(worker * sums_size)
            registers = plan.isa.tiles.open(tile, self.packed[1], memory)
            self._task(registers, own, bind(image), bind(row), part)
            registers.close()

    def _task(
        self, registers: Registers, source: Flat, first_image: Index, row: Index, part: Index
    ) -> None:
        plan, cut = self.plan, self.plan.cut
        if not plan.in_place:
            with loop(cut.images) as image:
                self._copy_input(source, image, first_image + image, row)
        units, positions = plan.units // cut.parts, plan.positions(cut.rows)
        with loop(units) as i, loop(cut.images) as image, loop(plan.tiles) as tile:
            first = 0
            if plan.tiles > 1:
                first = bind(tile_start(tile, plan.tile_positions, positions))
            x_start = image * plan.image_scratch
            if plan.in_place:
                x_start = plan.input_offset(first_image + image, row)
            out_start = plan.output_offset(first_image + image, row)
            self._micro_kernel(registers, source, part * units + i, first, x_start, out_start)

    def _copy_input(self, target: Flat, index: Index, image: Index, row: Index) -> None:
        plan, shape, cut = self.plan, self.plan.shape, self.plan.cut
        plane = plan.plane(cut.rows)
        for i, remainder in enumerate(plan.remainders):
            place = index * plan.image_scratch + i * plan.plane_bytes(cut.rows)
            below = (plan.rows - cut.rows + plane.count - 1) * plane.step + remainder
            copy_rows(
                shape,
                self.x,
                target.part(place),
                self.epilogue.input_zero_point(),
                plane,
                image=image,
                first=row * plane.step + remainder,
                fits=below - shape.padding[0] < shape.h,
            )

    def _micro_kernel(
        self,
        registers: Registers,
        source: Flat,
        unit: Index,
        first: Index,
        x_start: Index,
        out_start: Index,
    ) -> None:
        """One tile of one unit; `first` is its first pixel, counted from where both start."""
        plan, tile = self.plan, self.plan.tile
        group, vector_block = split(unit, plan.groups, plan.vectors // tile.vectors)
        x_start = bind(x_start + group * plan.group_inputs + first * plan.x_step)
        out_start = bind(out_start + group * plan.group_outputs)
        lane_start = bind(unit * (tile.vectors * plan.isa.lanes))
        for part in range(tile.parts):
            for vector in range(tile.vectors):
                at = lane_start + vector * plan.isa.lanes
                registers.start(part * tile.vectors + vector, self.bias, at)
        with loop(plan.steps) as step:
            x_at = bind(x_start + self.packed[2].load(step))
            w_at = bind((unit * plan.steps + step) * (tile.vectors * tile.weights_size))
            self._dots(registers, source, x_at, w_at)
        for number in range(tile.sums):
            registers.keep(number)
        self._store(registers, lane_start, vector_block, first, out_start)

    def _dots(self, registers: Registers, source: Flat, x_at: Index, w_at: Index) -> None:
        """Add one term to all sums; the operand that needs fewer registers is loaded first."""
        tile, step = self.plan.tile, self.plan.x_step
        x, weights = tile.x_registers, tile.weight_registers

        def load_x(part: int) -> int:
            register = x[part % len(x)]
            registers.load(register, source, x_at + part * (tile.pixels * step), step)
            return register

        def load_weights(vector: int) -> int:
            register = weights[vector % len(weights)]
            registers.load(register, self.packed[0], w_at + vector * tile.weights_size, _ROW)
            return register

        if tile.parts < tile.vectors:
            pixels = [load_x(part) for part in range(tile.parts)]
            for vector in range(tile.vectors):
                register = load_weights(vector)
                for part, each in enumerate(pixels):
                    registers.dot(part * tile.vectors + vector, each, register)
        else:
            columns = [load_weights(vector) for vector in range(tile.vectors)]
            for part in range(tile.parts):
                register = load_x(part)
                for vector, each in enumerate(columns):
                    registers.dot(part * tile.vectors + vector, register, each)

    def _store(
        self,
        registers: Registers,
        lane_start: Index,
        vector_block: Index,
        first: Index,
        out_start: Index,
    ) -> None:
        """The outputs of a tile, pixel by pixel."""
        plan, tile, lanes = self.plan, self.plan.tile, self.plan.isa.lanes
        multipliers = [
            bind(self.multiplier.load(lane_start + vector * lanes, lanes))
            for vector in range(tile.vectors)
        ]
        channels = [
            bind(out_start + plan.channel(vector_block * tile.vectors + vector))
            for vector in range(tile.vectors)
        ]
        with loop(tile.parts) as part, loop(tile.pixels) as pixel:
            position = first + part * tile.pixels + pixel

            def store(place: Index, part: Index = part, pixel: Index = pixel) -> None:
                at = bind(part * (tile.vectors * tile.sums_size) + pixel * lanes)
                sums = [
                    registers.memory.load(at + vector * tile.sums_size, lanes)
                    for vector in range(tile.vectors)
                ]
                offsets = [bind(channel + place) for channel in channels]
                plan.store_pixel(self.epilogue, self.out, sums, multipliers, offsets)

            if plan.follows:
                store(position * plan.shape.output_step)
            else:
                place = bind(self.packed[3].load(position))
                with when(place >= 0):
                    store(place)


_ROW = 64
"""Bytes of a row of weights."""
