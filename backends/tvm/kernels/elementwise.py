"""Quantized operations on one or two tensors, element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    cast,
    float_bits,
    integer,
    prim_func,
    splat,
)
from qpc.backends.tvm.kernels.epilogue import (
    AddTensor,
    Lookup,
    Reals,
    Requantize,
    add_constants,
    real_values,
    requantize_constants,
    requantized,
)
from qpc.backends.tvm.kernels.geometry import View
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array, Kernel, TensorType, kernel_name
from qpc.backends.tvm.kernels.loops import Box, broadcast_strides, for_each_vector

_REAL = ("add_float", "mul_float", "lookup_float")
"""Operations whose results are float32."""


@dataclass(frozen=True)
class MulConstants:
    """The numbers of `qpc::mul`; `multiplier` is rounded to float32."""

    a_zero_point: int
    b_zero_point: int
    multiplier: float
    output_zero_point: int
    lo: int = 0
    hi: int = 255


@dataclass(frozen=True)
class RealSum:
    """The numbers of `qpc::add_float`; `scale` is rounded to float32."""

    a_zero_point: int
    b_zero_point: int
    a_multiplier: int
    b_multiplier: int
    scale: float
    reals: Reals


@dataclass(frozen=True)
class RealProduct:
    """The numbers of `qpc::mul_float`; `multiplier` is rounded to float32."""

    a_zero_point: int
    b_zero_point: int
    multiplier: float
    reals: Reals


def add(
    isa: Isa,
    a: View,
    b: View,
    numbers: AddTensor,
    threads: int = 1,
    share: ChannelSlice | None = None,
) -> Kernel:
    """The kernel of `qpc::add` on tensors whose physical shapes broadcast as numpy's do.

    share: which part of the last axis of a larger tensor the result is.
    """
    return _binary(isa, "add", a, b, add_constants(numbers), threads, share)


def mul(
    isa: Isa,
    a: View,
    b: View,
    numbers: MulConstants,
    threads: int = 1,
    share: ChannelSlice | None = None,
) -> Kernel:
    """The kernel of `qpc::mul` on tensors whose physical shapes broadcast as numpy's do.

    See `add` for `share`.
    """
    constants = (
        numbers.a_zero_point,
        numbers.b_zero_point,
        float_bits(numbers.multiplier),
        *requantize_constants(numbers.output_zero_point, numbers.lo, numbers.hi),
    )
    return _binary(isa, "mul", a, b, constants, threads, share)


def real_sum(isa: Isa, a: View, b: View, numbers: RealSum, threads: int = 1) -> Kernel:
    """The kernel of `qpc::add_float` on tensors whose physical shapes broadcast as numpy's do."""
    a_factor, b_factor = numbers.a_multiplier, numbers.b_multiplier
    offset = -numbers.a_zero_point * a_factor - numbers.b_zero_point * b_factor
    constants = a_factor, b_factor, offset, float_bits(numbers.scale), *numbers.reals.bits
    return _binary(isa, "add_float", a, b, constants, threads, None)


def real_product(isa: Isa, a: View, b: View, numbers: RealProduct, threads: int = 1) -> Kernel:
    """The kernel of `qpc::mul_float` on tensors whose physical shapes broadcast as numpy's do."""
    zero_points = numbers.a_zero_point, numbers.b_zero_point
    constants = *zero_points, float_bits(numbers.multiplier), *numbers.reals.bits
    return _binary(isa, "mul_float", a, b, constants, threads, None)


def real_lookup(isa: Isa, x: View, table: npt.NDArray[np.float32], threads: int = 1) -> Kernel:
    """The kernel of `qpc::lookup` in a table of 256 float32."""
    return _unary(isa, "lookup_float", x, table, threads, None)


def lookup(
    isa: Isa, x: View, table: bytes, threads: int = 1, share: ChannelSlice | None = None
) -> Kernel:
    """The kernel of `qpc::lookup`; see `add` for `share`."""
    values = np.frombuffer(Lookup(table).table, isa.activation)
    return _unary(isa, "lookup", x, values, threads, share)


def retype(
    isa: Isa, x: View, dtype: str, threads: int = 1, share: ChannelSlice | None = None
) -> Kernel:
    """int8 for uint8 that are 128 more, or the other way round; see `add` for `share`."""
    out = View(x.shape, share, dtype)
    name, func = _retype_function(isa, (x, out), threads)
    return Kernel(name, func, (x.type,), (), out.type)


@cache
def _retype_function(isa: Isa, views: tuple[View, View], threads: int) -> tuple[str, PrimFunc]:
    x_view, out_view = views
    box = Box.of(x_view.shape, x_view.strides, out_view.strides)

    def body(x: Flat, out: Flat) -> None:
        x, out = x.part(x_view.first), out.part(out_view.first)

        def emit(offsets: list[Index], lanes: int) -> None:
            source, target = offsets
            bits = cast(x.load(source, lanes), "uint8", lanes)
            flipped = bits ^ integer(1 << 7, "uint8", lanes)
            out.store(target, cast(flipped, out_view.dtype, lanes), lanes)

        for_each_vector(box, _lanes(isa, box), threads, emit)

    name = kernel_name("retype", isa, views, threads)
    return name, prim_func(name, (x_view.type, out_view.type), body)


def clamp(
    isa: Isa, x: View, lo: int, hi: int, threads: int = 1, share: ChannelSlice | None = None
) -> Kernel:
    """The kernel of `qpc::clamp`; see `add` for `share`."""
    return _unary(isa, "clamp", x, np.array([lo, hi], np.int32), threads, share)


def prelu(
    isa: Isa,
    x: View,
    negative: Array,
    requantize: Requantize,
    threads: int = 1,
    share: ChannelSlice | None = None,
) -> Kernel:
    """The kernel of `qpc::prelu` on images [n, h, w, c].

    negative: float32[c]; `requantize` has the other factor. See `add` for `share`.
    """
    out = View(x.shape, share, x.dtype)
    numbers = np.array(
        (
            requantize.input_zero_point,
            float_bits(requantize.multiplier),
            *requantize_constants(requantize.output_zero_point, requantize.lo, requantize.hi),
        ),
        np.int64,
    ).astype(np.int32)
    name, func = _prelu_function(isa, (x, out), threads)
    return Kernel(name, func, (x.type,), (negative, numbers), out.type)


@cache
def _prelu_function(isa: Isa, views: tuple[View, View], threads: int) -> tuple[str, PrimFunc]:
    x_view, out_view = views
    channels = x_view.shape[-1]
    by_channel = (*[0] * (len(x_view.shape) - 1), 1)
    box = Box.of(x_view.shape, x_view.strides, out_view.strides, by_channel)

    def body(x: Flat, negative: Flat, numbers: Flat, out: Flat) -> None:
        x, out = x.part(x_view.first), out.part(out_view.first)

        def emit(offsets: list[Index], lanes: int) -> None:
            source, target, channel = offsets
            zero_point, positive, *constants = (numbers.load(i) for i in range(5))
            centred = cast(x.load(source, lanes), "int32", lanes) - splat(zero_point, lanes)
            factor = T.Select(
                centred < integer(0, "int32", lanes),
                negative.load(channel, lanes),
                splat(T.reinterpret("float32", positive), lanes),
            )
            value = requantized(centred, factor, constants, lanes)
            out.store(target, cast(value, out_view.dtype, lanes), lanes)

        # A box of one channel has merged its last loop: each value for itself then.
        lanes = _lanes(isa, box) if box.strides[2][-1] == 1 and channels > 1 else 1
        for_each_vector(box, lanes, threads, emit)

    name = kernel_name("prelu", isa, views, threads)
    params = (TensorType((channels,), "float32"), TensorType((5,), "int32"))
    return name, prim_func(name, (x_view.type, *params, out_view.type), body)


def _binary(
    isa: Isa,
    operation: str,
    a: View,
    b: View,
    constants: Sequence[int],
    threads: int,
    share: ChannelSlice | None,
) -> Kernel:
    dtype = "float32" if operation in _REAL else a.dtype
    out = View(np.broadcast_shapes(a.shape, b.shape), share, dtype)
    name, func = _binary_function(isa, operation, (a, b, out), len(constants), threads)
    params = (np.array(constants, np.int64).astype(np.int32),)
    return Kernel(name, func, (a.type, b.type), params, out.type)


@cache
def _binary_function(
    isa: Isa,
    operation: str,
    views: tuple[View, View, View],
    constants: int,
    threads: int,
) -> tuple[str, PrimFunc]:
    a_view, b_view, out_view = views
    emitters: dict[str, Callable[..., Expr]] = {
        "add": isa.added,
        "mul": partial(_multiplied, isa.activation),
        "add_float": _real_sum,
        "mul_float": _real_product,
    }
    emit_value = emitters[operation]
    strides = [broadcast_strides(v.shape, v.strides, out_view.shape) for v in views]
    box = Box.of(out_view.shape, *strides)

    def body(a: Flat, b: Flat, numbers: Flat, out: Flat) -> None:
        a, b, out = (x.part(view.first) for x, view in zip((a, b, out), views, strict=True))

        def emit(offsets: list[Index], lanes: int) -> None:
            a_value, b_value = (
                tensor.load(at, lanes) if step else splat(tensor.load(at), lanes)
                for tensor, at, step in zip((a, b), offsets, box.last_strides, strict=False)
            )
            scalars = [numbers.load(i) for i in range(constants)]
            out.store(offsets[2], emit_value(a_value, b_value, scalars, lanes), lanes)

        for_each_vector(box, _lanes(isa, box), threads, emit)

    name = kernel_name(operation, isa, views, threads)
    arguments = (a_view.type, b_view.type, TensorType((constants,), "int32"), out_view.type)
    return name, prim_func(name, arguments, body)


def _lanes(isa: Isa, box: Box) -> int:
    """Elements of a vector: one where a share of a single channel is read or written."""
    return isa.wide_lanes if max(box.last_strides) <= 1 else 1


def _multiplied(dtype: str, a: Expr, b: Expr, constants: Sequence[Expr], lanes: int) -> Expr:
    a_zero_point, b_zero_point, multiplier, *requantize = constants
    product = (cast(a, "int32", lanes) - splat(a_zero_point, lanes)) * (
        cast(b, "int32", lanes) - splat(b_zero_point, lanes)
    )
    scale = splat(T.reinterpret("float32", multiplier), lanes)
    return cast(requantized(product, scale, requantize, lanes), dtype, lanes)


def _real_sum(a: Expr, b: Expr, constants: Sequence[Expr], lanes: int) -> Expr:
    a_factor, b_factor, offset, scale, *bounds = constants
    a, b = cast(a, "int32", lanes), cast(b, "int32", lanes)
    total = a * splat(a_factor, lanes) + b * splat(b_factor, lanes) + splat(offset, lanes)
    return real_values(total, splat(T.reinterpret("float32", scale), lanes), bounds, lanes)


def _real_product(a: Expr, b: Expr, constants: Sequence[Expr], lanes: int) -> Expr:
    a_zero_point, b_zero_point, multiplier, *bounds = constants
    product = (cast(a, "int32", lanes) - splat(a_zero_point, lanes)) * (
        cast(b, "int32", lanes) - splat(b_zero_point, lanes)
    )
    return real_values(product, splat(T.reinterpret("float32", multiplier), lanes), bounds, lanes)


def _unary(
    isa: Isa, operation: str, x: View, param: Array, threads: int, share: ChannelSlice | None
) -> Kernel:
    out = View(x.shape, share, "float32" if operation in _REAL else x.dtype)
    param_type = TensorType(param.shape, str(param.dtype))
    name, func = _unary_function(isa, operation, (x, out), param_type, threads)
    return Kernel(name, func, (x.type,), (param,), out.type)


@cache
def _unary_function(
    isa: Isa, operation: str, views: tuple[View, View], param: TensorType, threads: int
) -> tuple[str, PrimFunc]:
    x_view, out_view = views
    box = Box.of(x_view.shape, x_view.strides, out_view.strides)

    def body(x: Flat, numbers: Flat, out: Flat) -> None:
        x, out = x.part(x_view.first), out.part(out_view.first)

        def emit(offsets: list[Index], lanes: int) -> None:
            source, target = offsets
            value = x.load(source, lanes)
            if operation == "lookup":
                value = isa.lookup(numbers, value, lanes)
            elif operation == "lookup_float":
                value = Isa.lookup(isa, numbers, value, lanes)  # not by bytes
            else:
                value = isa.clamped(value, numbers.load(0), numbers.load(1), lanes)
            out.store(target, value, lanes)

        for_each_vector(box, _lanes(isa, box), threads, emit)

    name = kernel_name(operation, isa, views, threads)
    return name, prim_func(name, (x_view.type, param, out_view.type), body)
