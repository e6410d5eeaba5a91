"""Dense convolution with registers of vectors.

The weights of an output channel meet *runs* of consecutive input bytes: a whole kernel row of `kw *
c` bytes where these are consecutive, else the channels of one pixel. A run is padded with zero
weights to a multiple of what one `dot` takes, so channels are never padded, whatever their number.
Input rows are copied to scratch memory, with a border of zero points, if there is padding or if
reading past the end of a run could leave the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tvm.tirx import Expr

from qpc.backends.tvm.kernels.conv import nibbles
from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, Operands
from qpc.backends.tvm.kernels.conv.dense_plan import DensePlan
from qpc.backends.tvm.kernels.conv.padding import copy_padded_rows, copy_pixels
from qpc.backends.tvm.kernels.conv.paired_sums import PairedSums
from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    cast,
    integer,
    local,
    loop,
    loop_between,
    powers_of_two,
    scratch,
    split,
    tasks,
    wrapped_sum,
)
from qpc.backends.tvm.kernels.geometry import tile_start
from qpc.backends.tvm.kernels.isa.base import Isa


@dataclass(frozen=True)
class DenseConv(DensePlan):
    """The plan, with its code."""

    @classmethod
    def plans_for(cls, isa: Isa, layer: Convolution, threads: int) -> list[DenseConv]:
        """The best plan for the weights of a layer."""
        shape, weight, greatest = layer.desc.shape, layer.weight, layer.constants.greatest
        rows = cls(isa, shape, threads).summed_rows(weight)
        plans = [cls(exact, shape, threads) for exact in isa.exact_for(rows, greatest)]
        found = [plan.skipping(plan.kept(weight)).packing(weight) for plan in plans]
        if isa.pairs is not None and plans[0].columns > 1:
            found.append(cls(isa.pairs, layer.desc.shape, threads))
        return found

    def emit(self, operands: Operands) -> None:
        """Write the code of the convolution."""
        _Code(self, operands).emit()


@dataclass(frozen=True)
class _Code:
    """Emits the function."""

    plan: DensePlan
    given: Operands

    def emit(self) -> None:
        plan = self.plan
        threads = min(plan.threads, plan.tasks)
        source = (
            scratch(plan.scratch_size * threads, plan.isa.x_type)
            if plan.needs_scratch
            else self.given.x
        )
        with tasks(plan.tasks, threads) as (worker, task):
            image, row_block, part = split(task, plan.images, plan.row_blocks, plan.blocks.parts)
            own = source.part(worker * plan.scratch_size) if plan.needs_scratch else source
            self._task(own, image, row_block, part)

    def _task(self, source: Flat, image: Index, row_block: Index, part: Index) -> None:
        plan = self.plan
        rows, stride = plan.blocks.rows, plan.shape.stride
        first = tile_start(row_block, rows, plan.rows)
        if plan.needs_scratch:
            self._copy_input(source, image, first)
        units = plan.units // plan.blocks.parts
        with loop(units) as i, loop(rows) as row, loop(plan.column_tiles) as column_tile:
            column = tile_start(column_tile, plan.tile.pixels, plan.shape.ow)
            if plan.is_matrix_product:
                column = 0
            if plan.needs_scratch:
                x_row = row * stride[0] * plan.scratch_row
            else:
                x_row = plan.input_offset(image, (first + row) * stride[0])
            self._micro_kernel(
                source,
                part * units + i,
                x_row + column * plan.x_step,
                plan.output_offset(image, first + row) + column * plan.shape.output_step,
                row * plan.column_tiles + column_tile,
            )

    def _copy_input(self, target: Flat, image: Index, first: Index) -> None:
        plan = self.plan
        if plan.is_matrix_product:
            with loop(plan.blocks.rows) as row:
                pixel = tile_start(first + row, plan.tile.pixels, plan.pixels)
                place, count = row * plan.scratch_row, plan.tile.pixels
                copy_pixels(plan.shape, self.given.x, pixel, target, place, count)
        else:
            copy_padded_rows(
                plan.shape,
                self.given.x,
                target,
                self.given.epilogue.input_zero_point(),
                image=image,
                first_output_row=first,
                output_rows=plan.blocks.rows,
            )

    def _micro_kernel(
        self, source: Flat, unit: Index, x_start: Index, out_start: Index, turn: Index
    ) -> None:
        """One tile of one unit: `x_start` is where its first pixel begins in `source`.

        turn: how many tiles of the unit come before.
        """
        plan, isa, tile = self.plan, self.plan.isa, self.plan.tile
        group, vector_block = split(unit, plan.groups, plan.vectors // tile.vectors)
        x_start = bind(x_start + group * plan.group_inputs)
        out_start = bind(out_start + group * plan.group_outputs)
        lane_start = bind(unit * (tile.vectors * isa.lanes))
        sums = local(tile.pixels * tile.vectors * isa.lanes, "int32")
        initial = [
            self._lanes(self.given.bias, lane_start, vector) for vector in range(tile.vectors)
        ]
        paired = PairedSums(isa, tile, sums)
        if isa.in_pairs:
            paired.start(initial)
        else:
            for pixel in range(tile.pixels):
                for vector in range(tile.vectors):
                    sums.store(self._at(pixel, vector), initial[vector], isa.lanes)

        if plan.nibbles:
            self._add_pairs(source, sums, unit, x_start)
        elif isa.steps_per_load > 1 and not tile.skips:
            self._add_groups(source, sums, unit, x_start)
        else:
            self._add_terms(source, sums, unit, x_start, turn)

        scale = [
            self._lanes(self.given.multiplier, lane_start, vector) for vector in range(tile.vectors)
        ]
        first = [
            bind(out_start + plan.channel(vector_block * tile.vectors + vector))
            for vector in range(tile.vectors)
        ]
        for pixel in range(tile.pixels):
            totals = paired.totals(pixel) if isa.in_pairs else self._totals(sums, pixel)
            offsets = [start + pixel * plan.shape.output_step for start in first]
            plan.store_pixel(self.given.epilogue, self.given.out, totals, scale, offsets)

    def _at(self, pixel: int, vector: int) -> int:
        """Where the sums of a pixel and a vector of channels are."""
        return (pixel * self.plan.tile.vectors + vector) * self.plan.isa.lanes

    def _totals(self, sums: Flat, pixel: int) -> list[Expr]:
        lanes, vectors = self.plan.isa.lanes, self.plan.tile.vectors
        return [sums.load(self._at(pixel, vector), lanes) for vector in range(vectors)]

    def _add_terms(
        self, source: Flat, sums: Flat, unit: Index, x_start: Index, turn: Index
    ) -> None:
        """Add all terms to the sums [pixel, vector, lane]."""
        plan, isa, tile = self.plan, self.plan.isa, self.plan.tile
        block = isa.lanes * isa.depth
        ahead: Index = 0
        if plan.fetched:
            # What the tiles of a unit fetch follows the unit's own weights, one after the other.
            ahead = (unit + 1) * tile.vectors + (turn - unit) * plan.fetched
            ahead = bind(ahead * (plan.steps * block))
        with self._terms(unit) as (term, place):
            # Bound, so that each address below is a variable plus a constant: quick to compile.
            x_at = bind(x_start + place)
            w_at = bind(term * (tile.vectors * block))
            for i in range(plan.fetched):
                self.given.weight[0].fetch(ahead + (term * plan.fetched + i) * block)
            w = [
                bind(self._weights(w_at + vector * block, block)) for vector in range(tile.vectors)
            ]
            for pixel in range(tile.pixels):
                pixel_at = x_at + pixel * plan.x_step
                x = bind(isa.broadcast_from(source, pixel_at))
                for vector in range(tile.vectors):
                    at = (pixel * tile.vectors + vector) * isa.lanes
                    sums.store(at, isa.dot(sums.load(at, isa.lanes), x, w[vector]), isa.lanes)

    def _add_groups(self, source: Flat, sums: Flat, unit: Index, x_start: Index) -> None:
        """`_add_terms` where the activations of several steps are loaded together."""
        plan, group = self.plan, self.plan.isa.steps_per_load
        kh, (dh, dw) = plan.shape.kernel[0], plan.shape.dilation
        whole, rest = divmod(plan.run_steps, group)
        with loop(kh) as row, loop(plan.runs) as run:
            place = bind(x_start + row * (dh * plan.x_next_row) + run * (dw * plan.shape.c))
            term = bind(((unit * kh + row) * plan.runs + run) * plan.run_steps)
            if whole:
                with loop(whole) as i:
                    self._add_steps(source, sums, place, term, i * group, group)
            at = whole * group
            for count in powers_of_two(rest):
                self._add_steps(source, sums, place, term, at, count)
                at += count

    def _add_steps(
        self, source: Flat, sums: Flat, place: Index, term: Index, first: Index, steps: int
    ) -> None:
        """The terms from `first` of a run on, whose activations one load has for each pixel."""
        plan, isa, tile = self.plan, self.plan.isa, self.plan.tile
        block = isa.lanes * isa.depth
        # Bound, so that each address below is a variable plus a constant: quick to compile.
        x_at = bind(place + first * isa.depth)
        w_at = bind((term + first) * (tile.vectors * block))
        loaded = [
            bind(source.load(x_at + pixel * plan.x_step, steps * isa.depth))
            for pixel in range(tile.pixels)
        ]

        def weights(offset: int, size: int) -> Expr:
            return self._weights(w_at + offset, size)

        if isa.in_pairs:
            PairedSums(isa, tile, sums).add(loaded, steps, weights)
            return
        for step in range(steps):
            for vector in range(tile.vectors):
                w = bind(weights((step * tile.vectors + vector) * block, block))
                for pixel, x in enumerate(loaded):
                    at = self._at(pixel, vector)
                    total = isa.dot_step(sums.load(at, isa.lanes), x, w, step, steps)
                    sums.store(at, total, isa.lanes)

    def _weights(self, at: Index, size: int) -> Expr:
        """Weights as `dot` takes them."""
        return cast(self.given.weight[0].load(at, size), self.plan.isa.w_type, size)

    def _add_pairs(self, source: Flat, sums: Flat, unit: Index, x_start: Index) -> None:
        """`_add_terms` for weights of four bits: two terms at a time."""
        plan, isa, tile = self.plan, self.plan.isa, self.plan.tile
        block, pairs = isa.lanes * isa.depth, plan.run_steps // 2
        offset = integer(-nibbles.OFFSET, "int8", block)
        excess = local(tile.pixels * isa.lanes, "int32")
        for pixel in range(tile.pixels):
            excess.store(pixel * isa.lanes, integer(0, "int32", isa.lanes), isa.lanes)
        with loop(pairs) as pair:
            x_at = bind(x_start + pair * (2 * isa.depth))
            w_at = bind((unit * pairs + pair) * (tile.vectors * block))
            x = []
            for pixel in range(tile.pixels):
                first = x_at + pixel * plan.x_step
                at = pixel * isa.lanes
                for x_half in (first, first + isa.depth):
                    x.append(bind(isa.broadcast_from(source, x_half)))
                    total = isa.dot(excess.load(at, isa.lanes), x[-1], offset)
                    excess.store(at, total, isa.lanes)
            for vector in range(tile.vectors):
                packed = self.given.weight[0].load(w_at + vector * block, block)
                for half, w in enumerate(nibbles.unpacked(packed, block)):
                    for pixel in range(tile.pixels):
                        at = (pixel * tile.vectors + vector) * isa.lanes
                        total = isa.dot(sums.load(at, isa.lanes), x[2 * pixel + half], w)
                        sums.store(at, total, isa.lanes)
        for pixel in range(tile.pixels):
            each = bind(excess.load(pixel * isa.lanes, isa.lanes))
            for vector in range(tile.vectors):
                at = (pixel * tile.vectors + vector) * isa.lanes
                total = wrapped_sum(sums.load(at, isa.lanes), each, isa.lanes)
                sums.store(at, total, isa.lanes)

    @contextmanager
    def _terms(self, unit: Index) -> Iterator[tuple[Index, Index]]:
        """Count a unit's terms: their places among packed weights and in the activations."""
        plan = self.plan
        if plan.tile.skips:
            _, places, starts = self.given.weight
            first, end = bind(starts.load(unit)), bind(starts.load(unit + 1))
            with loop_between(first, end) as term:
                yield term, places.load(term)
        else:
            kh, (dh, dw) = plan.shape.kernel[0], plan.shape.dilation
            with loop(kh) as row, loop(plan.runs) as run, loop(plan.run_steps) as step:
                place = row * (dh * plan.x_next_row) + run * (dw * plan.shape.c)
                term = ((unit * kh + row) * plan.runs + run) * plan.run_steps + step
                yield term, place + step * plan.isa.depth

    def _lanes(self, values: Flat, start: Index, vector: int) -> Expr:
        lanes = self.plan.isa.lanes
        return bind(values.load(start + vector * lanes, lanes))
