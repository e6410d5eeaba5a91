"""Quantized operations on one or two tensors, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import Flat, Index, cast, float_bits, prim_func, splat
from qpc.backends.tvm.kernels.epilogue import (
    AddTensor,
    Lookup,
    add_constants,
    clamped,
    requantize_constants,
    requantized,
)
from qpc.backends.tvm.kernels.instructions import Isa
from qpc.backends.tvm.kernels.kernel import Array, Kernel, TensorType, kernel_name
from qpc.backends.tvm.kernels.loops import (
    Box,
    broadcast_strides,
    contiguous_strides,
    for_each_vector,
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class MulConstants:
    """The numbers of `qpc::mul`; `multiplier` is rounded to float32."""

    a_zero_point: int
    b_zero_point: int
    multiplier: float
    output_zero_point: int
    lo: int = 0
    hi: int = 255


def add(isa: Isa, a_shape: Shape, b_shape: Shape, numbers: AddTensor, threads: int = 1) -> Kernel:
    """The kernel of `qpc::add` on tensors whose physical shapes broadcast as numpy's do."""
    return _binary(isa, "add", a_shape, b_shape, add_constants(numbers), threads)


def mul(
    isa: Isa, a_shape: Shape, b_shape: Shape, numbers: MulConstants, threads: int = 1
) -> Kernel:
    """The kernel of `qpc::mul` on tensors whose physical shapes broadcast as numpy's do."""
    constants = (
        numbers.a_zero_point,
        numbers.b_zero_point,
        float_bits(numbers.multiplier),
        *requantize_constants(numbers.output_zero_point, numbers.lo, numbers.hi),
    )
    return _binary(isa, "mul", a_shape, b_shape, constants, threads)


def lookup(isa: Isa, shape: Shape, table: bytes, threads: int = 1) -> Kernel:
    """The kernel of `qpc::lookup`."""
    values = np.frombuffer(Lookup(table).table, np.uint8)
    return _unary(isa, "lookup", shape, values, threads)


def clamp(isa: Isa, shape: Shape, lo: int, hi: int, threads: int = 1) -> Kernel:
    """The kernel of `qpc::clamp`."""
    return _unary(isa, "clamp", shape, np.array([lo, hi], np.int32), threads)


def _binary(
    isa: Isa,
    operation: str,
    a_shape: Shape,
    b_shape: Shape,
    constants: Sequence[int],
    threads: int,
) -> Kernel:
    a, b = TensorType(a_shape, "uint8"), TensorType(b_shape, "uint8")
    out = TensorType(np.broadcast_shapes(a_shape, b_shape), "uint8")
    name, func = _binary_function(isa, operation, (a, b, out), len(constants), threads)
    params = (np.array(constants, np.int64).astype(np.int32),)
    return Kernel(name, func, (a, b), params, out)


@cache
def _binary_function(
    isa: Isa,
    operation: str,
    types: tuple[TensorType, TensorType, TensorType],
    constants: int,
    threads: int,
) -> tuple[str, PrimFunc]:
    a_type, b_type, out_type = types
    emit_value = isa.added if operation == "add" else _multiplied
    strides = [broadcast_strides(t.shape, out_type.shape) for t in (a_type, b_type)]
    box = Box.of(out_type.shape, *strides, contiguous_strides(out_type.shape))

    def body(a: Flat, b: Flat, numbers: Flat, out: Flat) -> None:
        def emit(offsets: list[Index], lanes: int) -> None:
            a_value, b_value = (
                tensor.load(at, lanes) if step else splat(tensor.load(at), lanes)
                for tensor, at, step in zip((a, b), offsets, box.last_strides, strict=False)
            )
            scalars = [numbers.load(i) for i in range(constants)]
            out.store(offsets[2], emit_value(a_value, b_value, scalars, lanes), lanes)

        for_each_vector(box, isa.lanes * 4, threads, emit)

    name = kernel_name(operation, isa, types, threads)
    arguments = (a_type, b_type, TensorType((constants,), "int32"), out_type)
    return name, prim_func(name, arguments, body)


def _multiplied(a: Expr, b: Expr, constants: Sequence[Expr], lanes: int) -> Expr:
    a_zero_point, b_zero_point, multiplier, *requantize = constants
    product = (cast(a, "int32", lanes) - splat(a_zero_point, lanes)) * (
        cast(b, "int32", lanes) - splat(b_zero_point, lanes)
    )
    scale = splat(T.reinterpret("float32", multiplier), lanes)
    return cast(requantized(product, scale, requantize, lanes), "uint8", lanes)


def _unary(isa: Isa, operation: str, shape: Shape, param: Array, threads: int) -> Kernel:
    tensor = TensorType(shape, "uint8")
    param_type = TensorType(param.shape, str(param.dtype))
    name, func = _unary_function(isa, operation, tensor, param_type, threads)
    return Kernel(name, func, (tensor,), (param,), tensor)


@cache
def _unary_function(
    isa: Isa, operation: str, tensor: TensorType, param: TensorType, threads: int
) -> tuple[str, PrimFunc]:
    strides = contiguous_strides(tensor.shape)
    box = Box.of(tensor.shape, strides, strides)

    def body(x: Flat, numbers: Flat, out: Flat) -> None:
        def emit(offsets: list[Index], lanes: int) -> None:
            source, target = offsets
            value = x.load(source, lanes)
            if operation == "lookup":
                value = isa.lookup(numbers, value, lanes)
            else:
                value = clamped(value, numbers.load(0), numbers.load(1), lanes)
            out.store(target, value, lanes)

        for_each_vector(box, isa.lanes * 4, threads, emit)

    name = kernel_name(operation, isa, tensor, threads)
    return name, prim_func(name, (tensor, param, tensor), body)
