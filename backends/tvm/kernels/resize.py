"""Quantized resizing of images, exact, on NHWC tensors: copies, or linear interpolation."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    cast,
    copy,
    integer,
    loop,
    prim_func,
    splat,
)
from qpc.backends.tvm.kernels.geometry import View
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType, kernel_name
from qpc.backends.tvm.kernels.loops import outer_indices
from qpc.ops.resize import POSITIONS

_NUMBERS = 3  # for each place of an axis: two offsets into the input, and the second's weight
_SHIFT = 2 * (POSITIONS.bit_length() - 1)


def resize2d(
    isa: Isa,
    x: View,
    rows: npt.NDArray[np.int32],
    columns: npt.NDArray[np.int32],
    threads: int = 1,
    share: ChannelSlice | None = None,
) -> Kernel:
    """The kernel of `qpc::resize2d`; only copies if all places are pixels.

    share: which channels of larger images the outputs are.
    """
    n, h, w, c = x.shape
    out = View((n, len(rows), len(columns), c), share, x.dtype)
    linear = bool((rows % POSITIONS).any() or (columns % POSITIONS).any())
    name, func = _function(isa, linear, x, out, threads)
    axes = _axis(rows, h, w * x.step), _axis(columns, w, x.step)
    return Kernel(name, func, (x.type,), axes, out.type)


def _axis(places: npt.NDArray[np.int32], size: int, stride: int) -> npt.NDArray[np.int32]:
    """[place, `_NUMBERS`]."""
    first, weight = np.divmod(places.astype(np.int32), POSITIONS)
    second = np.minimum(first + 1, size - 1)
    return np.stack([first * stride, second * stride, weight], axis=1).astype(np.int32)


@cache
def _function(
    isa: Isa, linear: bool, images: View, outputs: View, threads: int
) -> tuple[str, PrimFunc]:
    n, oh, ow, c = outputs.shape
    arguments = (
        images.type,
        TensorType((oh, _NUMBERS), "int32"),
        TensorType((ow, _NUMBERS), "int32"),
        outputs.type,
    )

    def body(x: Flat, rows: Flat, columns: Flat, out: Flat) -> None:
        with ExitStack() as stack:
            image, row = outer_indices(stack, (n, oh), threads > 1)
            low, high, weight = (bind(rows.load(row * _NUMBERS + i)) for i in range(_NUMBERS))
            start = images.offset(image, 0)
            target = bind(outputs.offset(image, row) + integer(0))
            column = stack.enter_context(loop(ow))
            numbers = [bind(columns.load(column * _NUMBERS + i)) for i in range(_NUMBERS)]
            if not linear:
                copy(out, target + column * outputs.step, x, start + low + numbers[0], c)
                return
            corners = [bind(start + y + numbers[i]) for y in (low, high) for i in (0, 1)]
            weights = _weights(weight, numbers[2])

            def emit(channel: Index, lanes: int) -> None:
                total: Expr = integer(1 << (_SHIFT - 1), lanes=lanes)
                for corner, share in zip(corners, weights, strict=True):
                    value = cast(x.load(corner + channel, lanes), "int32", lanes)
                    total = total + value * splat(share, lanes)
                value = T.shift_right(total, integer(_SHIFT, lanes=lanes))
                place = target + column * outputs.step + channel
                out.store(place, cast(value, outputs.dtype, lanes), lanes)

            whole, rest = divmod(c, isa.lanes)
            if whole:
                with loop(whole) as i:
                    emit(i * isa.lanes, isa.lanes)
            if rest:
                emit(whole * isa.lanes, rest)

    name = kernel_name("resize2d", isa, linear, images, outputs, threads)
    return name, prim_func(name, arguments, body)


def _weights(row: Expr, column: Expr) -> list[Expr]:
    """The shares of the four corners; their sum is `POSITIONS**2`."""
    one = integer(POSITIONS)
    return [bind(y * x) for y in (bind(one - row), row) for x in (bind(one - column), column)]
