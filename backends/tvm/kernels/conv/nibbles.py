"""Weights of four bits, two in each byte.

They count from 0 up in their half of a byte, so that taking one out is a mask or a shift. What this
adds to a sum, `OFFSET` times the sum of its activations, is the same for all output channels: it is
counted once for each pixel, by `dot`s with a constant, and taken off in the end.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import bind, integer, reinterpret

LEAST, OFFSET = -8, 8
_GREATEST = 7


def fits(weight: npt.NDArray[np.int8]) -> bool:
    """Whether all weights have four bits."""
    return bool(np.all((weight >= LEAST) & (weight <= _GREATEST)))


def pack(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """weight[unit, term, ...], an even number of terms, two of which share their bytes."""
    numbers = (weight + OFFSET).astype(np.uint8)
    return numbers[:, ::2] | numbers[:, 1::2] * np.uint8(16)


def unpacked(packed: Expr, size: int) -> tuple[Expr, Expr]:
    """int8 weights plus `OFFSET` of both terms, from `size` bytes."""
    packed = bind(packed)
    low = packed & integer(15, "uint8", size)
    high = T.shift_right(packed, integer(4, "uint8", size))
    return bind(reinterpret(low, "int8", size)), bind(reinterpret(high, "int8", size))


def even(steps: int) -> int:
    """The next even number."""
    return 2 * ceil(steps / 2)
