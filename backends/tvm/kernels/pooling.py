"""Quantized pooling and mean, exact, on physical tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from math import prod

import numpy as np
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    cast,
    float_bits,
    integer,
    local,
    loop,
    prim_func,
    splat,
    when,
)
from qpc.backends.tvm.kernels.epilogue import (
    Reals,
    Requantize,
    real_values,
    requantize_constants,
    requantized,
)
from qpc.backends.tvm.kernels.geometry import View
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array, Kernel, TensorType, kernel_name, least
from qpc.backends.tvm.kernels.loops import Box, contiguous_strides, for_each_vector, outer_indices

Shape = tuple[int, ...]


@dataclass(frozen=True)
class RealAverage:
    """From int32 sums to float32 averages; `multiplier` is rounded to float32."""

    input_zero_point: int
    multiplier: float
    reals: Reals


@dataclass(frozen=True)
class PoolWindow:
    """A sliding window; padding is (top, left, bottom, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False

    def output_size(self, size: int, axis: int) -> int:
        """Number of windows along an axis: 0 for rows, 1 for columns."""
        before, after = self.padding[axis], self.padding[axis + 2]
        reach = (self.kernel[axis] - 1) * self.dilation[axis] + 1
        steps, rest = divmod(size + before + after - reach, self.stride[axis])
        windows = steps + 1
        # A window of ceil mode must begin inside the input or the padding before it, as in torch.
        extra = rest > 0 and windows * self.stride[axis] < size + before
        return windows + (self.ceil_mode and extra)


@dataclass(frozen=True)
class Counts:
    """What averages are divided by where that differs: size - 1 at most; padding may count."""

    size: int
    padding: bool


def max_pool2d(
    isa: Isa, x: View, window: PoolWindow, threads: int = 1, share: ChannelSlice | None = None
) -> Kernel:
    """The kernel of `qpc::max_pool2d`; padding never wins.

    share: which channels of larger images the outputs are.
    """
    return _pool(isa, "max_pool2d", x, window, (), x.dtype, threads, share)


def avg_pool2d(
    isa: Isa,
    x: View,
    window: PoolWindow,
    requantize: Requantize | RealAverage,
    threads: int = 1,
    share: ChannelSlice | None = None,
) -> Kernel:
    """The kernel of `qpc::avg_pool2d`, or that in float32; padding counts as the zero point.

    share: which channels of larger images the outputs are.
    """
    constants = (_average_constants(requantize),)
    dtype = _result_type(isa, requantize)
    return _pool(isa, "avg_pool2d", x, window, constants, dtype, threads, share)


def counted_avg_pool2d(
    isa: Isa,
    x: View,
    window: PoolWindow,
    requantize: Requantize,
    multipliers: Sequence[float],
    *,
    count_padding: bool = False,
    threads: int = 1,
    share: ChannelSlice | None = None,
) -> Kernel:
    """The kernel of `qpc::counted_avg_pool2d`.

    multipliers: by the number of values in a window; count_padding: whether the padding has some.
    The multiplier of `requantize` is not looked at. share: as in `avg_pool2d`.
    """
    counts = Counts(len(multipliers), count_padding)
    constants = (_average_constants(requantize), np.array(multipliers, np.float32))
    return _pool(isa, "counted_avg_pool2d", x, window, constants, x.dtype, threads, share, counts)


def mean(
    isa: Isa,
    shape: Shape,
    axes: tuple[int, ...],
    requantize: Requantize | RealAverage,
    keepdim: bool = False,
    threads: int = 1,
) -> Kernel:
    """The kernel of `qpc::sum` and `qpc::mean` over physical axes; `requantize` says which.

    And whether the results are on a grid or float32.
    """
    reduced = {axis % len(shape) for axis in axes}
    kept = tuple(
        1 if axis in reduced else extent
        for axis, extent in enumerate(shape)
        if keepdim or axis not in reduced
    )
    x, out = TensorType(shape, isa.activation), TensorType(kept, _result_type(isa, requantize))
    name, func = _mean_function(isa, x, frozenset(reduced), out, threads)
    return Kernel(name, func, (x,), (_average_constants(requantize),), out)


def _result_type(isa: Isa, requantize: Requantize | RealAverage) -> str:
    return "float32" if isinstance(requantize, RealAverage) else isa.activation


def _average_constants(requantize: Requantize | RealAverage) -> Array:
    if isinstance(requantize, RealAverage):
        zero_point, factor = requantize.input_zero_point, float_bits(requantize.multiplier)
        return np.array((zero_point, factor, *requantize.reals.bits, 0), np.int32)
    numbers = (
        requantize.input_zero_point,
        float_bits(requantize.multiplier),
        *requantize_constants(requantize.output_zero_point, requantize.lo, requantize.hi),
    )
    return np.array(numbers, np.int32)


_AVERAGE_CONSTANTS = TensorType((5,), "int32")


def _average(
    total: Expr, numbers: Flat, dtype: str, lanes: int, multiplier: Expr | None = None
) -> Expr:
    """The results of a sum from which zero points are subtracted already."""
    if multiplier is None:
        multiplier = T.reinterpret("float32", numbers.load(1))
    multiplier = splat(multiplier, lanes)
    if dtype == "float32":
        return real_values(total, multiplier, [numbers.load(i) for i in (2, 3)], lanes)
    constants = [numbers.load(i) for i in range(2, 5)]
    return cast(requantized(total, multiplier, constants, lanes), dtype, lanes)


def _pool(
    isa: Isa,
    operation: str,
    x: View,
    window: PoolWindow,
    params: tuple[Array, ...],
    dtype: str,
    threads: int,
    share: ChannelSlice | None,
    counts: Counts | None = None,
) -> Kernel:
    n, h, w, c = x.shape
    out = View((n, window.output_size(h, 0), window.output_size(w, 1), c), share, dtype)
    name, func = _pool_function(isa, operation, x, window, out, threads, counts)
    return Kernel(name, func, (x.type,), params, out.type)


@cache
def _pool_function(
    isa: Isa,
    operation: str,
    images: View,
    window: PoolWindow,
    outputs: View,
    threads: int,
    counts: Counts | None,
) -> tuple[str, PrimFunc]:
    is_max = operation == "max_pool2d"
    n, oh, ow, c = outputs.shape
    dtype = images.dtype if is_max else "int32"
    # The least number never wins against the window's own values.
    start = least(dtype) if is_max else 0
    size = isa.lanes * 4 if is_max else isa.lanes

    def body(x: Flat, *args: Flat) -> None:
        *numbers, out = args

        def emit(position: list[Index], channel: Index, lanes: int) -> None:
            image, row, column = position
            state = local(lanes, dtype)
            state.store(0, integer(start, dtype, lanes), lanes)

            def visit(y: Index, x_column: Index) -> None:
                value = x.load(images.offset(image, y, x_column) + channel, lanes)
                before = state.load(0, lanes)
                if is_max:
                    state.store(0, T.max(before, value), lanes)
                else:
                    value = cast(value, "int32", lanes) - splat(numbers[0].load(0), lanes)
                    state.store(0, before + value, lanes)

            _for_each_tap(window, images.shape[1:3], (oh, ow), (row, column), visit)
            result = state.load(0, lanes)
            if not is_max:
                factor = None
                if counts is not None:
                    factor = numbers[1].load(
                        _count(window, images.shape[1:3], position[1:], counts)
                    )
                result = _average(result, numbers[0], outputs.dtype, lanes, factor)
            out.store(outputs.offset(image, row, column) + channel, result, lanes)

        with ExitStack() as stack:
            image, row = outer_indices(stack, (n, oh), threads > 1)
            column = stack.enter_context(loop(ow))
            whole, rest = divmod(c, size)
            if whole:
                with loop(whole) as i:
                    emit([image, row, column], i * size, size)
            if rest:
                emit([image, row, column], whole * size, rest)

    name = kernel_name(operation, isa, images, window, outputs, threads, counts)
    constants = () if is_max else (_AVERAGE_CONSTANTS,)
    if counts is not None:
        constants = (*constants, TensorType((counts.size,), "float32"))
    return name, prim_func(name, (images.type, *constants, outputs.type), body)


def _count(window: PoolWindow, size: Shape, position: Sequence[Index], counts: Counts) -> Index:
    """How many values are in the window of an output, dilation aside."""
    lengths = []
    for axis, at in enumerate(position):
        start = at * window.stride[axis] - window.padding[axis]
        outside = window.padding[axis] if counts.padding else 0
        stop = T.min(start + window.kernel[axis], integer(size[axis] + outside))
        lengths.append(stop - T.max(start + integer(0), integer(-outside)))
    return lengths[0] * lengths[1]


def _for_each_tap(
    window: PoolWindow,
    size: Shape,
    output_size: Shape,
    position: tuple[Index, Index],
    visit: Callable[[Index, Index], None],
) -> None:
    """Call `visit(row, column)` for the inputs of one output, leaving out the padding."""
    with loop(window.kernel[0]) as i, loop(window.kernel[1]) as j, ExitStack() as stack:
        inputs = []
        for axis, tap in enumerate((i, j)):
            start = position[axis] * window.stride[axis] - window.padding[axis]
            at = bind(start + tap * window.dilation[axis] + integer(0))
            last = (output_size[axis] - 1) * window.stride[axis] - window.padding[axis]
            last += (window.kernel[axis] - 1) * window.dilation[axis]
            if window.padding[axis] > 0:
                stack.enter_context(when(at >= 0))
            if last >= size[axis]:
                stack.enter_context(when(at < size[axis]))
            inputs.append(at)
        visit(*inputs)


@cache
def _mean_function(
    isa: Isa, x_type: TensorType, reduced: frozenset[int], out_type: TensorType, threads: int
) -> tuple[str, PrimFunc]:
    strides = contiguous_strides(x_type.shape)
    kept_axes = [axis for axis in range(len(strides)) if axis not in reduced]
    kept_shape = [x_type.shape[axis] for axis in kept_axes]
    over = Box.of(
        [x_type.shape[axis] for axis in sorted(reduced)],
        [strides[axis] for axis in sorted(reduced)],
    )
    box = Box.of(kept_shape, [strides[axis] for axis in kept_axes], contiguous_strides(kept_shape))
    in_vectors = box.last_strides[0] == 1

    def body(x: Flat, numbers: Flat, out: Flat) -> None:
        def emit(offsets: list[Index], lanes: int) -> None:
            source, target = offsets
            total = local(lanes, "int32")
            # From -255 * count to 255 * count on the way: `MOST_SUMMED` keeps that within 32 bits.
            count = integer(prod(over.extents), "int32")
            total.store(0, splat(T.int32(0) - numbers.load(0) * count, lanes), lanes)
            with ExitStack() as stack:
                indices = outer_indices(stack, over.extents, parallel=False)
                at = source + sum(
                    (i * step for i, step in zip(indices, over.strides[0], strict=True)), 0
                )
                value = cast(x.load(at, lanes), "int32", lanes)
                total.store(0, total.load(0, lanes) + value, lanes)
            average = _average(total.load(0, lanes), numbers, out_type.dtype, lanes)
            out.store(target, average, lanes)

        for_each_vector(box, isa.lanes * 4 if in_vectors else 1, threads, emit)

    name = kernel_name("mean", isa, x_type, sorted(reduced), out_type, threads)
    return name, prim_func(name, (x_type, _AVERAGE_CONSTANTS, out_type), body)
