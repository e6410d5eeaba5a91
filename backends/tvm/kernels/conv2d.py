"""Quantized 2-d convolution of any shape, exact, on NHWC tensors.

The weights of an output channel meet *runs* of consecutive input bytes: a whole kernel row of `kw *
c` bytes where these are consecutive, else the channels of one pixel. A run is padded with zero
weights to a multiple of what one `dot` takes, so channels are never padded, whatever their number.
Input rows are copied to scratch memory, with a border of zero points, if there is padding or if
reading past the end of a run could leave the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import ceil

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr, PrimFunc

from qpc.backends.tvm.kernels.depthwise import depthwise_conv2d
from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    cast,
    copy,
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
from qpc.backends.tvm.kernels.instructions import Isa
from qpc.backends.tvm.kernels.kernel import Array, Kernel, TensorType, kernel_name
from qpc.backends.tvm.kernels.padding import copy_padded_rows
from qpc.backends.tvm.kernels.tiling import (
    Blocks,
    Tile,
    best_tiles,
    choose_blocks,
    choose_tile,
    tuned_tile,
)

__all__ = ["Conv2dDesc", "conv2d", "dense_conv2d"]


def conv2d(
    isa: Isa,
    desc: Conv2dDesc,
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.float32],
    epilogue: Epilogue = (),
    threads: int = 1,
) -> Kernel:
    """The kernel of `qpc::conv2d` followed by `epilogue`.

    Inputs are x[n, h, w, c] and the tensors that the epilogue adds, of the output's shape [n, oh,
    ow, o]. `weight[o, c // groups, kh, kw]`, `bias[o]` and `multiplier[o]` are packed into the
    kernel's params.
    """
    if desc.groups == desc.c == desc.o and desc.groups > 1:
        return depthwise_conv2d(isa, desc, weight, bias, multiplier, epilogue, threads)
    return dense_conv2d(
        isa, desc, weight, bias, multiplier, epilogue, threads, (desc.input, desc.output)
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
) -> Kernel:
    """`conv2d` with given types of input and output, which may be other views of the data."""
    part = Part(desc, weight, bias, multiplier)
    return dense_parts("conv2d", isa, [part], epilogue, threads, types)


@dataclass(frozen=True, eq=False)
class Part:
    """A convolution, as `conv2d` takes it."""

    desc: Conv2dDesc
    weight: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    multiplier: npt.NDArray[np.float32]


def dense_parts(
    operation: str,
    isa: Isa,
    parts: Sequence[Part],
    epilogue: Epilogue,
    threads: int,
    types: tuple[TensorType, TensorType],
) -> Kernel:
    """Convolutions of one input that differ in shapes and constants, and in where they write.

    They have the same zero points and bounds, and one tensor of outputs.
    """
    isa = isa.for_weights(np.concatenate([part.weight.reshape(-1) for part in parts]))
    plans = tuple(_Plan(isa, part.desc.shape, threads) for part in parts)
    form = EpilogueForm.of(epilogue, np.concatenate([part.multiplier for part in parts]))
    if len(plans) == 1:
        name = kernel_name(operation, plans, form, types)
        plans = (replace(plans[0], chosen=tuned_tile(name, plans[0].tiles)),)
    name, func = _function(operation, plans, form, types)
    params: list[Array] = []
    for plan, part in zip(plans, parts, strict=True):
        zero_point_term = part.desc.input_zero_point * part.weight.sum((1, 2, 3), dtype=np.int64)
        params += (
            plan.pack_weight(part.weight),
            # Sums may wrap around in between: the compiler has proved that accumulators do not.
            plan.pack_channels((part.bias - zero_point_term).astype(np.int32)),
            plan.pack_channels(part.multiplier.astype(np.float32)),
        )
    desc, (x, out) = parts[0].desc, types
    params += epilogue_params(
        desc.input_zero_point, desc.output_zero_point, desc.lo, desc.hi, epilogue
    )
    return Kernel(name, func, (x, *form.inputs(out)), tuple(params), out)


@dataclass(frozen=True)
class _Plan:
    """How a convolution is tiled and how its weights are laid out."""

    isa: Isa
    shape: ConvShape
    threads: int
    chosen: Tile | None = None
    """The micro-kernel, if tuning has chosen another than the cost model."""

    @cached_property
    def merged_groups(self) -> int:
        """Groups that share vectors of output channels, with zero weights for each other's inputs.

        A vector costs the same whether its lanes are used or not.
        """
        per_group = self.shape.o // self.shape.groups
        fits = [
            count
            for count in range(1, self.shape.groups + 1)
            if self.shape.groups % count == 0 and count * per_group <= self.isa.lanes
        ]
        return max(fits, default=1)

    @property
    def groups(self) -> int:
        """Number of groups after merging."""
        return self.shape.groups // self.merged_groups

    @property
    def group_inputs(self) -> int:
        """Input channels of a group."""
        return self.shape.c // self.groups

    @property
    def group_outputs(self) -> int:
        """Output channels of a group."""
        return self.shape.o // self.groups

    @property
    def vectors(self) -> int:
        """Vectors of output channels of a group."""
        return ceil(self.group_outputs / self.isa.lanes)

    @property
    def lanes(self) -> int:
        """Lanes of a vector that are output channels."""
        return min(self.isa.lanes, self.group_outputs)

    @property
    def vectors_per_store(self) -> int:
        """Vectors of a tile that follow one another in the output, and are stored together."""
        in_order = self.group_outputs % self.isa.lanes == 0
        return min(self.isa.vectors_per_store, self.tile.vectors) if in_order else 1

    @property
    def runs(self) -> int:
        """Runs of consecutive bytes that make one kernel row."""
        consecutive = self.groups == 1 and self.shape.dilation[1] == 1
        return 1 if consecutive else self.shape.kernel[1]

    @property
    def run_bytes(self) -> int:
        """Length of a run."""
        return self.shape.kernel[1] * self.group_inputs // self.runs

    @property
    def run_steps(self) -> int:
        """Number of `dot`s per run."""
        return ceil(self.run_bytes / self.isa.depth)

    @property
    def steps(self) -> int:
        """Number of `dot`s per output vector."""
        return self.shape.kernel[0] * self.runs * self.run_steps

    @property
    def is_matrix_product(self) -> bool:
        """Whether pixels do not overlap, so that their rows and columns do not matter."""
        shape = self.shape
        in_a_row = shape.places is None or shape.places.follow(shape.oh, shape.ow)
        plain = not any(shape.padding) and in_a_row
        return plain and shape.kernel == shape.stride == (1, 1)

    @cached_property
    def tile(self) -> Tile:
        """The micro-kernel."""
        return self.chosen or choose_tile(self.isa, self._columns, self.vectors, self.steps)

    def tiles(self) -> list[Tile]:
        """All micro-kernels that would do, the best by cost first."""
        return best_tiles(self.isa, self._columns, self.vectors, self.steps)

    @property
    def _columns(self) -> int:
        shape = self.shape
        return shape.n * shape.oh * shape.ow if self.is_matrix_product else shape.ow

    @property
    def images(self) -> int:
        """Number of images, or 1 if all pixels form one matrix."""
        return 1 if self.is_matrix_product else self.shape.n

    @property
    def rows(self) -> int:
        """Rows of an image, or tiles of the matrix of pixels."""
        return ceil(self._pixels / self.tile.pixels) if self.is_matrix_product else self.shape.oh

    @property
    def column_tiles(self) -> int:
        """Tiles of a row."""
        return 1 if self.is_matrix_product else ceil(self.shape.ow / self.tile.pixels)

    @property
    def w_type(self) -> str:
        """Element type of the packed weights; those that are used once are widened when used."""
        return "int8" if self.tile.pixels == 1 else self.isa.w_type

    @property
    def units(self) -> int:
        """Blocks of output channels, each computed by one micro-kernel per tile of pixels."""
        return self.groups * self.vectors // self.tile.vectors

    @property
    def needs_scratch(self) -> bool:
        """Whether the input cannot be read in place."""
        return (
            any(self.shape.padding)
            or self.run_bytes % self.isa.depth != 0
            or self.isa.x_type != "uint8"
        )

    @property
    def scratch_row(self) -> int:
        """Bytes of an input row in scratch memory."""
        shape = self.shape
        columns = self.tile.pixels if self.is_matrix_product else shape.input_columns(shape.ow)
        return columns * shape.c

    @property
    def scratch_size(self) -> int:
        """Elements of the scratch memory, with room to read past the last run."""
        return self.shape.input_rows(self.blocks.rows) * self.scratch_row + self.isa.depth - 1

    @cached_property
    def blocks(self) -> Blocks:
        """The tasks."""
        return choose_blocks(
            images=self.images,
            rows=self.rows,
            channel_blocks=self.units,
            row_cost=self.column_tiles * self.units * self.tile.cost(self.isa, self.steps),
            bytes_per_row=self.shape.stride[0] * self.scratch_row * self.isa.x_bytes,
            extra_bytes=(self.shape.reach[0] - self.shape.stride[0])
            * self.scratch_row
            * self.isa.x_bytes,
            copies=self.needs_scratch,
            threads=self.threads,
        )

    @property
    def _pixels(self) -> int:
        return self.shape.n * self.shape.oh * self.shape.ow

    def input_offset(self, image: Index, row: Index) -> Index:
        """Where a row of the input begins."""
        if self.is_matrix_product:
            return tile_start(row, self.tile.pixels, self._pixels) * self.shape.c
        return (image * self.shape.h + row) * (self.shape.w * self.shape.c)

    def output_offset(self, image: Index, row: Index) -> Index:
        """Where a row of the output begins."""
        if self.is_matrix_product:
            first = self.shape.places.first if self.shape.places else 0
            return tile_start(row, self.tile.pixels, self._pixels) * self.shape.output_step + first
        return self.shape.output_offset(image, row)

    def channel(self, vector: Index) -> Index:
        """The first output channel of a vector, within its group; the last vector may overlap."""
        return 0 if self.vectors == 1 else tile_start(vector, self.isa.lanes, self.group_outputs)

    def pack_weight(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """weight[o, c // groups, kh, kw] -> [unit, kh, run, step, vector of tile, lane, depth]."""
        kh, kw = self.shape.kernel
        merged = self.merged_groups
        parts = weight.reshape(self.groups, merged, -1, weight.shape[1], kh, kw)
        outputs, inputs = parts.shape[2:4]
        dense = np.zeros((self.groups, merged, outputs, kh, kw, merged, inputs), np.int8)
        for i in range(merged):
            dense[:, i, :, :, :, i] = parts[:, i].transpose(0, 1, 3, 4, 2)
        by_vector = self._by_vector(
            dense.reshape(self.groups, self.group_outputs, kh, self.runs, self.run_bytes)
        )
        slack = self.run_steps * self.isa.depth - self.run_bytes
        padded = np.pad(by_vector, [(0, 0)] * (by_vector.ndim - 1) + [(0, slack)])
        packed = padded.reshape(
            self.units, self.tile.vectors, self.isa.lanes, kh, self.runs, self.run_steps, -1
        ).transpose(0, 3, 4, 5, 1, 2, 6)
        return np.ascontiguousarray(packed, self.w_type)

    def pack_channels(self, values: Array) -> Array:
        """values[o] -> [unit * vector of the tile * lane]."""
        return self._by_vector(values.reshape(self.groups, self.group_outputs)).reshape(-1)

    def _by_vector(self, values: Array) -> Array:
        """[group, output, ...] -> [group, vector, lane, ...], with zeros in unused lanes."""
        starts = np.array([self.channel(vector) for vector in range(self.vectors)])
        outputs = starts[:, None] + np.arange(self.isa.lanes)
        unused = max(0, self.isa.lanes - self.group_outputs)
        padding = [(0, 0), (0, unused)] + [(0, 0)] * (values.ndim - 2)
        return np.pad(values, padding)[:, outputs]

    @property
    def param_types(self) -> tuple[TensorType, ...]:
        """The types of the packed weight, bias and multiplier."""
        lanes = self.units * self.tile.vectors * self.isa.lanes
        kernel = (self.shape.kernel[0], self.runs, self.run_steps)
        block = (self.tile.vectors, self.isa.lanes, self.isa.depth)
        return (
            TensorType((self.units, *kernel, *block), self.w_type),
            TensorType((lanes,), "int32"),
            TensorType((lanes,), "float32"),
        )


@cache
def _function(
    operation: str,
    plans: tuple[_Plan, ...],
    form: EpilogueForm,
    types: tuple[TensorType, TensorType],
) -> tuple[str, PrimFunc]:
    x_type, out_type = types
    added = form.inputs(out_type)
    packed = [t for plan in plans for t in plan.param_types]

    def body(x: Flat, *args: Flat) -> None:
        others, rest = args[: len(added)], args[len(added) :]
        layers, (constants, *tables, out) = rest[: len(packed)], rest[len(packed) :]
        epilogue = EpilogueCode(plans[0].isa, form, constants, others, tables)
        for i, plan in enumerate(plans):
            weight, bias, multiplier = layers[3 * i : 3 * i + 3]
            _Code(plan, x, weight, bias, multiplier, epilogue, out).emit()

    name = kernel_name(operation, plans, form, types)
    arguments = (x_type, *added, *packed, *form.params(), out_type)
    return name, prim_func(name, arguments, body)


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
        plan = self.plan
        row_blocks, parts = ceil(plan.rows / plan.blocks.rows), plan.blocks.parts
        count = plan.images * row_blocks * parts
        threads = min(plan.threads, count)
        source = (
            scratch(plan.scratch_size * threads, plan.isa.x_type) if plan.needs_scratch else self.x
        )
        with tasks(count, threads) as (worker, task):
            image, row_block, part = split(task, plan.images, row_blocks, parts)
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
                x_row, x_next = row * stride[0] * plan.scratch_row, plan.scratch_row
            else:
                x_row = plan.input_offset(image, (first + row) * stride[0])
                x_next = plan.shape.w * plan.shape.c
            self._micro_kernel(
                source,
                part * units + i,
                x_row + column * (stride[1] * plan.shape.c),
                x_next,
                plan.output_offset(image, first + row) + column * plan.shape.output_step,
            )

    def _copy_input(self, target: Flat, image: Index, first: Index) -> None:
        plan = self.plan
        if plan.is_matrix_product:
            with loop(plan.blocks.rows) as row:
                source = plan.input_offset(image, first + row)
                copy(target, row * plan.scratch_row, self.x, source, plan.scratch_row)
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
        self, source: Flat, unit: Index, x_start: Index, x_next_row: int, out_start: Index
    ) -> None:
        """One tile of one unit: `x_start` is where its first pixel begins in `source`."""
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

        (kh, _), (dh, dw) = plan.shape.kernel, plan.shape.dilation
        block = isa.lanes * isa.depth
        with loop(kh) as row, loop(plan.runs) as run, loop(plan.run_steps) as step:
            # Bound, so that each address below is a variable plus a constant: quick to compile.
            x_at = row * (dh * x_next_row) + run * (dw * plan.shape.c) + step * isa.depth
            x_at = bind(x_start + x_at)
            term = ((unit * kh + row) * plan.runs + run) * plan.run_steps + step
            w_at = bind(term * (tile.vectors * block))
            w = [
                bind(cast(self.weight.load(w_at + vector * block, block), isa.w_type, block))
                for vector in range(tile.vectors)
            ]
            for pixel in range(tile.pixels):
                pixel_at = x_at + pixel * plan.shape.stride[1] * plan.shape.c
                x = bind(isa.broadcast(source.load(pixel_at, isa.depth)))
                for vector in range(tile.vectors):
                    at = (pixel * tile.vectors + vector) * isa.lanes
                    sums.store(at, isa.dot(sums.load(at, isa.lanes), x, w[vector]), isa.lanes)

        scale = [self._lanes(self.multiplier, lane_start, vector) for vector in range(tile.vectors)]
        first = [
            bind(out_start + plan.channel(vector_block * tile.vectors + vector))
            for vector in range(tile.vectors)
        ]
        for pixel in range(tile.pixels):
            for start in range(0, tile.vectors, plan.vectors_per_store):
                together = range(start, min(start + plan.vectors_per_store, tile.vectors))
                totals = [
                    sums.load((pixel * tile.vectors + vector) * isa.lanes, isa.lanes)
                    for vector in together
                ]
                scales = [scale[vector] for vector in together]
                value = self.epilogue.requantized(totals, scales, in_order=True)
                lanes = len(together) * plan.lanes
                if plan.lanes < isa.lanes:
                    value = shuffle([value], range(lanes))
                offset = first[start] + pixel * plan.shape.output_step
                self.out.store(offset, self.epilogue.stages(value, offset, lanes), lanes)

    def _lanes(self, values: Flat, start: Index, vector: int) -> Expr:
        lanes = self.plan.isa.lanes
        return bind(values.load(start + vector * lanes, lanes))
