"""Machine code and its entry points, as the compiler and saved models give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qpc.backends.common.plan import Step
from qpc.runtime.arrays import ArrayType
from qpc.runtime.manifest import Entry
from qpc.types import TensorType, dtype_name


@dataclass(frozen=True)
class EntryPoint:
    """A function of the shared library; `qpc.backends.tvm.codegen.entry` says how it is called.

    weights: names of the constant tensors it reads; outputs: what it writes; arena: bytes of memory
    it needs; steps: the calls of kernels that it makes, with their memory, none if nothing is known
    about them; count: how many they are.
    """

    name: str
    weights: tuple[str, ...]
    outputs: tuple[TensorType, ...]
    arena: int
    steps: tuple[Step, ...]
    count: int

    @property
    def entry(self) -> Entry:
        """What of it is needed to call it."""
        outputs = tuple(ArrayType(t.shape, dtype_name(t.dtype)) for t in self.outputs)
        return Entry(self.name, self.weights, outputs, self.arena, self.count)


@dataclass(frozen=True)
class Code:
    """A shared library and its entry points by batch size."""

    library: bytes
    entries: Mapping[int, EntryPoint]
