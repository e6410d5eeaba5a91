"""What every kernel builder returns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
from tvm.tirx import PrimFunc

PREFIX = "qpc_"
"""How the names of our kernels begin, and of no others."""

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class TensorType:
    """Physical shape and element type of a tensor."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


def least(dtype: str) -> int:
    """The smallest integer of a type: what stands first in its tables."""
    return int(np.iinfo(dtype).min)


@dataclass(frozen=True, eq=False)
class Kernel:
    """A PrimFunc and the constant arrays that make it one layer.

    The arguments of `func` are the tensors of `inputs`, then `params` in order, then the output.
    Kernels of one description share `func` (the same object, the same name): only `params` differ
    between layers.

    skipped: the share of its multiply-accumulates that it leaves out, as the weights are zero.
    saved: the share of its `dot`s that it does without, as it needs fewer multiplications.
    method: how it computes, if there were several ways; time: what a model of the CPU makes of
    that, in instructions of a `dot`, to compare the ways.
    more: further outputs, whose tensors follow the first.
    macs: multiply-accumulates, where they are not those of a layer with weights.
    """

    name: str
    func: PrimFunc
    inputs: tuple[TensorType, ...]
    params: tuple[Array, ...]
    output: TensorType
    skipped: float = 0.0
    saved: float = 0.0
    method: str = ""
    time: float = 0.0
    more: tuple[TensorType, ...] = ()
    macs: int = 0


def kernel_name(operation: str, *description: object) -> str:
    """A symbol name that is the same for equal descriptions, in every process."""
    digest = hashlib.sha256(repr(description).encode()).hexdigest()[:12]
    return f"{PREFIX}{operation}_{digest}"
