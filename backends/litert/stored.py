"""How values of a graph are stored: images as NHWC, all integers as int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qpc.backends.litert.tables import Quantization
from qpc.quant.grid import QParams

_IMAGES = (0, 2, 3, 1)  # which logical axis each stored axis of four is
_SHIFT = 128  # from uint8 to int8


def stored_axes(rank: int) -> tuple[int, ...]:
    """Which logical axis each axis of a stored value is."""
    return _IMAGES if rank == 4 else tuple(range(rank))


def stored_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape in which a value is stored."""
    return tuple(shape[axis] for axis in stored_axes(len(shape)))


def stored_axis(axis: int, rank: int) -> int:
    """The stored axis that is a logical one, which may count from the end."""
    return stored_axes(rank).index(axis % rank)


@dataclass(frozen=True)
class Stored:
    """A tensor of the file: name, shape as stored, type, grid, and its contents if constant."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: Quantization | None = None
    data: bytes = b""


def stored_grid(grid: QParams) -> Quantization:
    """The grid of int8 values that stands for the same real numbers."""
    return Quantization((grid.scale,), (as_stored_point(grid.zero_point, grid.dtype),))


def as_stored(integers: Tensor) -> npt.NDArray[Any]:
    """Integers of a grid, uint8 or int8, as int8."""
    array: npt.NDArray[Any] = integers.numpy()
    if integers.dtype is torch.uint8:
        array = (array.astype(np.int16) - _SHIFT).astype(np.int8)
    return array


def as_stored_point(point: int, dtype: torch.dtype) -> int:
    """One of them, such as a zero point."""
    return point - _SHIFT if dtype is torch.uint8 else point
