"""Types of values: shapes in terms of the batch size, and dtypes by name.

A dimension is an int, or a `BatchDim` that grows with the batch: Swin's windows give `64*N`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class BatchDim:
    """A dimension of size `factor * N + offset`, where N is the batch size."""

    factor: int = 1
    offset: int = 0

    def at(self, batch: int) -> int:
        """The size at one batch size."""
        return self.factor * batch + self.offset

    def __str__(self) -> str:
        scaled = "N" if self.factor == 1 else f"{self.factor}N"
        return scaled if not self.offset else f"{scaled}{self.offset:+d}"


Dim = int | BatchDim
Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class TensorType:
    """A concrete shape and a dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype


_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2),
    )
}


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without its module, as numpy, TVM and files write it."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype | None:
    """The dtype of this name, or None if no tensor in a graph has it."""
    return _DTYPES.get(name)


Concrete = TensorType | int | float | bool | tuple["Concrete", ...] | None
"""What a node yields at one batch size: a tensor's type, a number, or a tuple of these."""


def resolve(shape: Shape, batch: int) -> tuple[int, ...]:
    """`shape` at one batch size."""
    return tuple(d if isinstance(d, int) else d.at(batch) for d in shape)


def format_shape(shape: Shape) -> str:
    """`(N, 3, 224, 224)`: how reports and the printer write a shape."""
    inside = ", ".join(str(d) for d in shape)
    return f"({inside},)" if len(shape) == 1 else f"({inside})"
