"""Quantized 2-d convolution of any shape, exact, on NHWC tensors.

The weights of an output channel meet *runs* of consecutive input bytes: a whole kernel row of `kw *
c` bytes where these are consecutive, else the channels of one pixel. A run is padded with zero
weights to a multiple of what one `dot` takes, so channels are never padded, whatever their number.
Input rows are copied to scratch memory, with a border of zero points, if there is padding or if
reading past the end of a run could leave the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr, PrimFunc

from qpc.backends.tvm.kernels.conv import nibbles
from qpc.backends.tvm.kernels.conv.conv_layout import ConvLayout
from qpc.backends.tvm.kernels.conv.dense_plan import DensePlan
from qpc.backends.tvm.kernels.conv.depthwise import depthwise_conv2d
from qpc.backends.tvm.kernels.conv.padding import copy_padded_rows, copy_pixels
from qpc.backends.tvm.kernels.conv.tile_conv import TileCode
from qpc.backends.tvm.kernels.conv.tile_plan import TilePlan
from qpc.backends.tvm.kernels.conv.tiling import Tile, Tuner
from qpc.backends.tvm.kernels.conv.winograd import WinogradCode
from qpc.backends.tvm.kernels.conv.winograd_plan import WinogradPlan
from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    cast,
    integer,
    local,
    loop,
    loop_between,
    prim_func,
    scratch,
    split,
    tasks,
    wrapped_sum,
)
from qpc.backends.tvm.kernels.epilogue import Epilogue, EpilogueCode, EpilogueForm, epilogue_params
from qpc.backends.tvm.kernels.geometry import Conv2dDesc, tile_start
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array, Kernel, TensorType, kernel_name

__all__ = ["Conv2dDesc", "conv2d", "dense_conv2d"]


def conv2d(
    isa: Isa,
    desc: Conv2dDesc,
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.float32],
    epilogue: Epilogue = (),
    threads: int = 1,
    tuner: Tuner | None = None,
) -> Kernel:
    """The kernel of `qpc::conv2d` followed by `epilogue`.

    Inputs are x[n, h, w, c] and the tensors that the epilogue adds, of the output's shape [n, oh,
    ow, o]. `weight[o, c // groups, kh, kw]`, `bias[o]` and `multiplier[o]` are packed into the
    kernel's params.
    """
    if desc.groups == desc.c == desc.o and desc.groups > 1:
        return depthwise_conv2d(isa, desc, weight, bias, multiplier, epilogue, threads)
    return dense_conv2d(
        isa, desc, weight, bias, multiplier, epilogue, threads, (desc.input, desc.output), tuner
    )


def dense_conv2d(
    isa: Isa,
    desc: Conv2dDesc,
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.float32],
    epilogue: Epilogue,
    threads: int,
    types: tuple[TensorType, TensorType],
    tuner: Tuner | None,
) -> Kernel:
    """`conv2d` with given types of input and output, which may be other views of the data."""
    part = Part(desc, weight, bias, multiplier)
    return dense_parts("conv2d", isa, [part], epilogue, threads, types, tuner)


Plan: TypeAlias = DensePlan | TilePlan | WinogradPlan


@dataclass(frozen=True, eq=False)
class Part:
    """A convolution, as `conv2d` takes it."""

    desc: Conv2dDesc
    weight: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    multiplier: npt.NDArray[np.float32]

    @property
    def offset(self) -> npt.NDArray[np.int32]:
        """What to add to sums of products with inputs that count from 0."""
        zero_point_term = self.desc.input_zero_point * self.weight.sum((1, 2, 3), dtype=np.int64)
        offset: npt.NDArray[np.int32] = (self.bias - zero_point_term).astype(np.int32)
        return offset


def dense_parts(
    operation: str,
    isa: Isa,
    parts: Sequence[Part],
    epilogue: Epilogue,
    threads: int,
    types: tuple[TensorType, TensorType],
    tuner: Tuner | None,
) -> Kernel:
    """Convolutions of one input that differ in shapes and constants, and in where they write.

    They have the same zero points and bounds, and one tensor of outputs. The tuner is asked about
    a convolution that is alone.
    """
    form = EpilogueForm.of(epilogue, np.concatenate([part.multiplier for part in parts]))
    plans = tuple(plan_for(isa, part, threads) for part in parts)
    if tuner is not None and len(plans) == 1:
        name = kernel_name(operation, plans, form, types)
        plans = (_tuned(plans[0], tuner, name, isa, parts[0], threads),)
    name, func = _function(operation, plans, form, types)
    params: list[Array] = []
    for plan, part in zip(plans, parts, strict=True):
        params += (
            *plan.pack_weight(part.weight),
            # Sums may wrap around in between: the compiler has proved that accumulators do not.
            plan.pack_channels(part.offset),
            plan.pack_channels(part.multiplier.astype(np.float32)),
        )
    desc, (x, out) = parts[0].desc, types
    params += epilogue_params(
        desc.input_zero_point, desc.output_zero_point, desc.lo, desc.hi, epilogue, isa.activation
    )
    skipped = _mean(plans, [plan.skipped for plan in plans])
    saved = _mean(plans, [plan.saved for plan in plans])
    return Kernel(name, func, (x, *form.inputs(out)), tuple(params), out, skipped, saved)


_MEMORY_FOR_TWICE_THE_TIME = 16 * 1024 * 1024


def plan_for(isa: Isa, part: Part, threads: int) -> Plan:
    """The plan that takes the least time, of all methods; memory for weights has its price.

    Those of minimal filtering take up to eight times as much. A MiB more has to save 6 % of the
    time, so that a model does not grow for little.
    """
    plans = _plans(isa, part, threads)
    return min(plans, key=_price) if len(plans) > 1 else plans[0]


def _price(plan: Plan) -> float:
    weight = plan.param_types[0]
    size = weight.size * np.dtype(weight.dtype).itemsize
    return plan.time * (1 + size / _MEMORY_FOR_TWICE_THE_TIME)


def _plans(isa: Isa, part: Part, threads: int) -> list[Plan]:
    """The best plan for each method."""
    plain = DensePlan(isa.for_weights(part.weight), part.desc.shape, threads)
    plans: list[Plan] = [plain.skipping(plain.kept(part.weight)).packing(part.weight)]
    if isa.tiles is not None:
        plans.append(TilePlan(isa, part.desc.shape, threads))
    plans += WinogradPlan.all_for(ConvLayout(isa, part.desc.shape, threads), part.weight)
    return plans


def _tuned(plan: Plan, tuner: Tuner, name: str, isa: Isa, part: Part, threads: int) -> Plan:
    """The plan that the tuner wants for the kernel of that name, else `plan`."""
    variants: dict[Tile, Plan] = {plan.label: plan}
    others: list[Plan] = []
    for each in _plans(isa, part, threads):
        others += each.variants(part.weight)
    for other in sorted(others, key=lambda other: other.time):
        variants.setdefault(other.label, other)
    tile = tuner(name, list(variants))
    return plan if tile is None else variants[tile]


def _mean(plans: Sequence[Plan], values: Sequence[float]) -> float:
    """The mean of values that count as much as the multiplications of their plans."""
    macs = [plan.shape.o * plan.shape.c // plan.shape.groups for plan in plans]
    macs = [n * plan.pixels * prod(plan.shape.kernel) for n, plan in zip(macs, plans, strict=True)]
    return sum(n * value for n, value in zip(macs, values, strict=True)) / sum(macs)


@cache
def _function(
    operation: str,
    plans: tuple[Plan, ...],
    form: EpilogueForm,
    types: tuple[TensorType, TensorType],
) -> tuple[str, PrimFunc]:
    x_type, out_type = types
    added = form.inputs(out_type)
    counts = [len(plan.param_types) for plan in plans]
    packed = [t for plan in plans for t in plan.param_types]

    def body(x: Flat, *args: Flat) -> None:
        others, rest = args[: len(added)], args[len(added) :]
        layers, (constants, *tables, out) = rest[: len(packed)], rest[len(packed) :]
        for plan, count in zip(plans, counts, strict=True):
            (*weight, bias, multiplier), layers = layers[:count], layers[count:]
            epilogue = EpilogueCode(plan.isa, form, constants, others, tables)
            match plan:
                case TilePlan():
                    TileCode(plan, x, weight, bias, multiplier, epilogue, out).emit()
                case WinogradPlan():
                    WinogradCode(plan, x, weight, bias, multiplier, epilogue, out).emit()
                case DensePlan():
                    _VectorCode(plan, x, weight, bias, multiplier, epilogue, out).emit()

    name = kernel_name(operation, plans, form, types)
    arguments = (x_type, *added, *packed, *form.params(plans[0].isa.activation), out_type)
    return name, prim_func(name, arguments, body)


@dataclass(frozen=True)
class _VectorCode:
    """Emits the function."""

    plan: DensePlan
    x: Flat
    weight: Sequence[Flat]
    bias: Flat
    multiplier: Flat
    epilogue: EpilogueCode
    out: Flat

    def emit(self) -> None:
        plan = self.plan
        threads = min(plan.threads, plan.tasks)
        source = (
            scratch(plan.scratch_size * threads, plan.isa.x_type) if plan.needs_scratch else self.x
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
                copy_pixels(plan.shape, self.x, pixel, target, place, count)
        else:
            copy_padded_rows(
                plan.shape,
                self.x,
                target,
                self.epilogue.input_zero_point(),
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
        each_sum = [
            (pixel, vector, (pixel * tile.vectors + vector) * isa.lanes)
            for pixel in range(tile.pixels)
            for vector in range(tile.vectors)
        ]

        initial = [self._lanes(self.bias, lane_start, vector) for vector in range(tile.vectors)]
        for _, vector, at in each_sum:
            sums.store(at, initial[vector], isa.lanes)

        if plan.nibbles:
            self._add_pairs(source, sums, unit, x_start)
        else:
            self._add_terms(source, sums, unit, x_start, turn)

        scale = [self._lanes(self.multiplier, lane_start, vector) for vector in range(tile.vectors)]
        first = [
            bind(out_start + plan.channel(vector_block * tile.vectors + vector))
            for vector in range(tile.vectors)
        ]
        for pixel in range(tile.pixels):
            totals = [
                sums.load((pixel * tile.vectors + vector) * isa.lanes, isa.lanes)
                for vector in range(tile.vectors)
            ]
            offsets = [start + pixel * plan.shape.output_step for start in first]
            plan.store_pixel(self.epilogue, self.out, totals, scale, offsets)

    def _add_terms(
        self, source: Flat, sums: Flat, unit: Index, x_start: Index, turn: Index
    ) -> None:
        """Add all terms to the sums [pixel, vector, lane]."""
        plan, isa, tile = self.plan, self.plan.isa, self.plan.tile
        block = isa.lanes * isa.depth
        # What the tiles of a unit fetch follows the unit's own weights, one after the other.
        ahead = ((unit + 1) * tile.vectors + (turn - unit) * plan.fetched) * (plan.steps * block)
        ahead = bind(ahead)
        with self._terms(unit) as (term, place):
            # Bound, so that each address below is a variable plus a constant: quick to compile.
            x_at = bind(x_start + place)
            w_at = bind(term * (tile.vectors * block))
            for i in range(plan.fetched):
                self.weight[0].fetch(ahead + (term * plan.fetched + i) * block)
            w = [
                bind(cast(self.weight[0].load(w_at + vector * block, block), isa.w_type, block))
                for vector in range(tile.vectors)
            ]
            for pixel in range(tile.pixels):
                pixel_at = x_at + pixel * plan.x_step
                x = bind(isa.broadcast(source.load(pixel_at, isa.depth)))
                for vector in range(tile.vectors):
                    at = (pixel * tile.vectors + vector) * isa.lanes
                    sums.store(at, isa.dot(sums.load(at, isa.lanes), x, w[vector]), isa.lanes)

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
                    x.append(bind(isa.broadcast(source.load(x_half, isa.depth))))
                    total = isa.dot(excess.load(at, isa.lanes), x[-1], offset)
                    excess.store(at, total, isa.lanes)
            for vector in range(tile.vectors):
                packed = self.weight[0].load(w_at + vector * block, block)
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
            _, places, starts = self.weight
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
