"""Between float tensors in logical order and tensors of activations in physical order."""

from __future__ import annotations

from functools import cache

import numpy as np
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    cast,
    float_bits,
    prim_func,
    shuffle,
    splat,
)
from qpc.backends.tvm.kernels.epilogue import requantize_constants, rounded
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType, kernel_name
from qpc.backends.tvm.kernels.loops import Box, contiguous_strides, for_each_vector

Shape = tuple[int, ...]

_FEW_CHANNELS = 4  # of images as cameras make them; their planes are read side by side


def quantize(
    isa: Isa,
    shape: Shape,
    permutation: tuple[int, ...],
    scale: float,
    zero_point: int,
    lo: int = 0,
    hi: int = 255,
    threads: int = 1,
) -> Kernel:
    """The kernel of `qpc::quantize` on float32 x of logical `shape`.

    The result is transposed: its axis `i` is axis `permutation[i]` of x.
    """
    x = TensorType(shape, "float32")
    out = TensorType(tuple(shape[axis] for axis in permutation), isa.activation)
    name, func = _quantize_function(isa, x, permutation, out, threads)
    inverse = np.float32(1.0 / float(np.float32(scale)))
    numbers = (float_bits(float(inverse)), *requantize_constants(zero_point, lo, hi))
    return Kernel(name, func, (x,), (np.array(numbers, np.int32),), out)


def dequantize(
    isa: Isa,
    shape: Shape,
    permutation: tuple[int, ...],
    scale: float,
    zero_point: int,
    threads: int = 1,
) -> Kernel:
    """The kernel of `qpc::dequantize` to a float32 tensor of logical `shape`.

    Axis `i` of the input is axis `permutation[i]` of the result.
    """
    x = TensorType(tuple(shape[axis] for axis in permutation), isa.activation)
    out = TensorType(shape, "float32")
    name, func = _dequantize_function(isa, x, permutation, out, threads)
    numbers = np.array([float_bits(scale), zero_point], np.int32)
    return Kernel(name, func, (x,), (numbers,), out)


@cache
def _quantize_function(
    isa: Isa, x_type: TensorType, permutation: tuple[int, ...], out_type: TensorType, threads: int
) -> tuple[str, PrimFunc]:
    count = _interleaved_channels(x_type.shape, permutation)
    planes = contiguous_strides(x_type.shape)[1] if count > 1 else 0
    walked = (x_type.shape[0], 1, *x_type.shape[2:]) if count > 1 else x_type.shape
    box = Box.of(
        walked,
        contiguous_strides(x_type.shape),
        _physical_strides(out_type.shape, permutation),
    )
    stride = box.last_strides[1]

    def body(x: Flat, numbers: Flat, out: Flat) -> None:
        def emit(offsets: list[Index], lanes: int) -> None:
            inverse = splat(T.reinterpret("float32", numbers.load(0)), lanes)
            constants = [numbers.load(i) for i in range(1, 4)]
            values = []
            for channel in range(count):
                real = x.load(offsets[0] + channel * planes, lanes) * inverse
                value = cast(rounded(real, constants, lanes), isa.activation, lanes)
                values.append(bind(value))
            if count == 1:
                out.store_strided(offsets[1], stride, values[0], lanes)
            else:
                mixed = [c * lanes + i for i in range(lanes) for c in range(count)]
                out.store(offsets[1], shuffle(values, mixed), count * lanes)

        for_each_vector(box, isa.lanes, threads, emit)

    name = kernel_name("quantize", isa, x_type, permutation, threads)
    return name, prim_func(name, (x_type, TensorType((4,), "int32"), out_type), body)


@cache
def _dequantize_function(
    isa: Isa, x_type: TensorType, permutation: tuple[int, ...], out_type: TensorType, threads: int
) -> tuple[str, PrimFunc]:
    logical = contiguous_strides(out_type.shape)
    box = Box.of(out_type.shape, _physical_strides(x_type.shape, permutation), logical)
    stride = box.last_strides[0]

    def body(x: Flat, numbers: Flat, out: Flat) -> None:
        def emit(offsets: list[Index], lanes: int) -> None:
            value = x.load_strided(offsets[0], stride, lanes)
            difference = cast(value, "int32", lanes) - splat(numbers.load(1), lanes)
            scale = splat(T.reinterpret("float32", numbers.load(0)), lanes)
            out.store(offsets[1], cast(difference, "float32", lanes) * scale, lanes)

        for_each_vector(box, isa.lanes, threads, emit)

    name = kernel_name("dequantize", isa, x_type, permutation, threads)
    return name, prim_func(name, (x_type, TensorType((2,), "int32"), out_type), body)


def _interleaved_channels(shape: Shape, permutation: tuple[int, ...]) -> int:
    """How many channels are stored together: all of an image that has few of them, else one.

    Images of one pixel have no pixels side by side in their planes.
    """
    few = len(shape) == 4 and 1 < shape[1] <= _FEW_CHANNELS and shape[2] * shape[3] > 1
    return shape[1] if few and permutation == (0, 2, 3, 1) else 1


def _physical_strides(physical: Shape, permutation: tuple[int, ...]) -> list[int]:
    """The strides of the logical axes in a tensor of physical shape."""
    strides = contiguous_strides(physical)
    return [strides[permutation.index(axis)] for axis in range(len(permutation))]
