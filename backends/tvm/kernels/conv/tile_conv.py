"""Dense convolution with registers of matrices."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, Operands
from qpc.backends.tvm.kernels.conv.padding import copy_pixels, copy_rows
from qpc.backends.tvm.kernels.conv.tile_plan import TilePlan
from qpc.backends.tvm.kernels.emit import Flat, Index, bind, loop, scratch, split, tasks, when
from qpc.backends.tvm.kernels.geometry import tile_start
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.isa.matrices import Registers


@dataclass(frozen=True)
class Work:
    """One tile of one unit: where its input and its output begin.

    unit: number of the block of output channels; first: its first pixel, counted from where the
    image begins; out_start: where the outputs of the group begin for pixel 0. turn: how many tiles
    of the unit come before.
    """

    unit: Index
    turn: Index
    first: Index
    x_start: Index
    out_start: Index


@dataclass(frozen=True)
class TileConv(TilePlan):
    """The plan, with its code."""

    @classmethod
    def plans_for(cls, isa: Isa, layer: Convolution, threads: int) -> list[TileConv]:
        """The plan for a layer, if there are such registers."""
        return [] if isa.tiles is None else [cls(isa, layer.desc.shape, threads)]

    def emit(self, operands: Operands) -> None:
        """Write the code of the convolution."""
        _Code(self, operands).emit()


@dataclass(frozen=True)
class _Code:
    """Emits the function.

    While one tile is summed up, the outputs of the tile before are computed and stored, so that the
    instructions for matrices and those for vectors have work at the same time.
    """

    plan: TilePlan
    given: Operands

    def emit(self) -> None:
        plan, cut, tile = self.plan, self.plan.cut, self.plan.tile
        image_blocks, row_blocks = ceil(plan.images / cut.images), ceil(plan.rows / cut.rows)
        count = image_blocks * row_blocks * cut.parts
        threads = min(plan.threads, count)
        sums_size, x_size = plan.matrices.memory(tile), cut.images * plan.image_scratch
        sums = scratch(threads * sums_size, "int32")
        source = self.given.x if plan.in_place else scratch(threads * x_size, plan.isa.activation)
        with tasks(count, threads) as (worker, task):
            block, row_block, part = split(task, image_blocks, row_blocks, cut.parts)
            image = bind(tile_start(block, cut.images, plan.images))
            row = bind(tile_start(row_block, cut.rows, plan.rows))
            own = source if plan.in_place else source.part(worker * x_size)
            if not plan.in_place:
                with loop(cut.images) as i:
                    self._copy_input(own, i, image + i, row)
            memory = sums.part(worker * sums_size)
            registers = plan.matrices.open(tile, self.given.weight[1], memory)
            self._task(registers, own, image, row, part)
            registers.close()

    def _task(
        self, registers: Registers, source: Flat, image: Index, row: Index, part: Index
    ) -> None:
        plan, cut = self.plan, self.plan.cut
        units = plan.units // cut.parts
        count = units * cut.images * plan.tiles

        def work(number: Index) -> Work:
            unit, i, tile = split(number, units, cut.images, plan.tiles)
            return self._work(part * units + unit, image, i, row, tile)

        self._sum(registers, source, work(0))
        if count > 1:
            with loop(count - 1) as number:
                self._sum(registers, source, work(number + 1), work(number))
        with loop(plan.tile_positions) as position:
            self._store(registers, work(count - 1), position)

    def _work(self, unit: Index, first_image: Index, i: Index, row: Index, tile: Index) -> Work:
        """A tile of image `i` of a task."""
        plan = self.plan
        group, _ = split(unit, plan.groups, plan.vectors // plan.tile.vectors)
        first: Index = 0
        if plan.tiles > 1:
            positions = plan.positions(plan.cut.rows)
            first = bind(tile_start(tile, plan.tile_positions, positions))
        x_start = i * plan.image_scratch
        if plan.in_place:
            x_start = plan.input_offset(first_image + i, row)
        out_start = plan.output_offset(first_image + i, row)
        return Work(
            bind(unit),
            i * plan.tiles + tile,
            first,
            bind(x_start + group * plan.group_inputs + first * plan.x_step),
            bind(out_start + group * plan.group_outputs),
        )

    def _copy_input(self, target: Flat, index: Index, image: Index, row: Index) -> None:
        plan, shape, cut = self.plan, self.plan.shape, self.plan.cut
        if plan.is_matrix_product:
            copy_pixels(shape, self.given.x, row, target, 0, cut.rows)
            return
        plane = plan.plane(cut.rows)
        for i, remainder in enumerate(plan.remainders):
            place = index * plan.image_scratch + i * plan.plane_bytes(cut.rows)
            below = (plan.rows - cut.rows + plane.count - 1) * plane.step + remainder
            copy_rows(
                shape,
                self.given.x,
                target.part(place),
                self.given.epilogue.input_zero_point(),
                plane,
                image=image,
                first=row * plane.step + remainder,
                fits=below - shape.padding[0] < shape.h,
            )

    def _sum(
        self, registers: Registers, source: Flat, work: Work, before: Work | None = None
    ) -> None:
        """The sums of a tile; meanwhile, the outputs of the tile `before`."""
        plan, tile = self.plan, self.plan.tile
        for part in range(tile.parts):
            for column in range(tile.columns):
                at = (work.unit * tile.columns + column) * plan.sizes.lanes
                registers.start(part * tile.columns + column, self.given.bias, at)
        with loop(plan.steps) as step:
            x_at = bind(work.x_start + self.given.weight[2].load(step))
            w_at = (work.unit * plan.steps + step) * (tile.columns * tile.weights_size)
            self._dots(registers, source, x_at, bind(w_at))
            ahead = (work.turn * plan.steps + step) * plan.fetched
            next_unit = (work.unit + 1) * plan.unit_weights
            for at in range(0, plan.fetched, plan.isa.costs.line_bytes):
                self.given.weight[0].fetch(next_unit + ahead + at)
            if before is not None:
                self._store_share(registers, before, step)
        for number in range(tile.sums):
            registers.keep(number)

    def _dots(self, registers: Registers, source: Flat, x_at: Index, w_at: Index) -> None:
        """Add one term to all sums; the operand that needs fewer registers is loaded first."""
        tile, step = self.plan.tile, self.plan.x_step
        x, weights = tile.x_registers, tile.weight_registers

        def load_x(part: int) -> int:
            register = x[part % len(x)]
            registers.load(register, source, x_at + part * (tile.pixels * step), step)
            return register

        def load_weights(column: int) -> int:
            register, at = weights[column % len(weights)], w_at + column * tile.weights_size
            registers.load(register, self.given.weight[0], at, tile.sizes.row_bytes)
            return register

        if tile.parts < tile.columns:
            pixels = [load_x(part) for part in range(tile.parts)]
            for column in range(tile.columns):
                register = load_weights(column)
                for part, each in enumerate(pixels):
                    registers.dot(part * tile.columns + column, each, register)
        else:
            columns = [load_weights(column) for column in range(tile.columns)]
            for part in range(tile.parts):
                register = load_x(part)
                for column, each in enumerate(columns):
                    registers.dot(part * tile.columns + column, register, each)

    def _store_share(self, registers: Registers, work: Work, step: Index) -> None:
        """What falls to a step of storing the outputs of a tile."""
        plan, count = self.plan, self.plan.tile_positions
        share = ceil(count / plan.steps)
        with loop(share) as i:
            position = step * share + i
            if share * plan.steps == count:
                self._store(registers, work, position)
            else:
                with when(position < count):
                    self._store(registers, work, position)

    def _store(self, registers: Registers, work: Work, position: Index) -> None:
        """The outputs of one pixel of a tile, from its sums in memory."""
        plan = self.plan
        if plan.follows:
            self._store_at(
                registers, work, position, (work.first + position) * plan.shape.output_step
            )
            return
        place = bind(self.given.weight[3].load(work.first + position))
        with when(place >= 0):
            self._store_at(registers, work, position, place)

    def _store_at(self, registers: Registers, work: Work, position: Index, place: Index) -> None:
        plan, tile, lanes = self.plan, self.plan.tile, self.plan.isa.lanes
        part, pixel = split(position, tile.parts, tile.pixels)
        size = tile.per_vector * tile.sums_size  # of a vector of channels
        at = bind(part * (tile.vectors * size) + pixel * lanes)
        _, block = split(work.unit, plan.groups, plan.vectors // tile.vectors)
        sums, multipliers, offsets = [], [], []
        for vector in range(tile.vectors):
            lane = (work.unit * tile.vectors + vector) * lanes
            channel = plan.channel(block * tile.vectors + vector)
            sums.append(registers.memory.load(at + vector * size, lanes))
            multipliers.append(self.given.multiplier.load(lane, lanes))
            offsets.append(bind(work.out_start + channel + place))
        plan.store_pixel(self.given.epilogue, self.given.out, sums, multipliers, offsets)
