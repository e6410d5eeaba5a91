"""Types of arrays by name, and arrays of types that numpy does not have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"
Plain: TypeAlias = "tuple[tuple[int, ...], np.dtype[Any]]"
"""Shape and dtype of a numpy array."""

_OWN = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
_FLOAT = ("float16", "float32", "float64", "complex64", "complex128")
_BITS = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}

STORAGE: Mapping[str, np.dtype[Any]] = {
    **{name: np.dtype(name) for name in _OWN + _FLOAT},
    **{name: np.dtype(kept) for name, kept in _BITS.items()},
}
"""The numpy dtype that holds values of each dtype; bits of those that numpy does not have."""


@dataclass(frozen=True)
class ArrayType:
    """A shape, and a dtype by the name that PyTorch has for it: "float32", "uint8", "bfloat16"."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def storage(self) -> np.dtype[Any]:
        """The numpy dtype: of the same values, or else of their bits, as unsigned integers."""
        return STORAGE[self.dtype]

    @property
    def is_numpy(self) -> bool:
        """Whether numpy has values of this dtype, not only their bits."""
        return self.dtype not in _BITS

    @property
    def plain(self) -> Plain:
        """Shape and numpy dtype."""
        return self.shape, self.storage

    @property
    def nbytes(self) -> int:
        """How many bytes the values have."""
        return prod(self.shape) * self.storage.itemsize

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Stored:
    """A constant tensor: data[bytes], uint8, of a type that numpy need not have."""

    type: ArrayType
    data: Array

    @property
    def array(self) -> Array:
        """The values, or the bits of them, in the same memory."""
        return self.data.view(self.type.storage).reshape(self.type.shape)

    @classmethod
    def of(cls, array: Array, dtype: str | None = None) -> Stored:
        """An array's values; dtype: what its values are, if its own dtype holds bits of them."""
        kept = np.ascontiguousarray(array)
        shape = tuple(map(int, array.shape))
        return cls(ArrayType(shape, dtype or kept.dtype.name), kept.reshape(-1).view(np.uint8))
