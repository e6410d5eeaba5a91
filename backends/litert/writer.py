"""What a .tflite file consists of while it is written: tensors, calls, constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qpc.backends.litert.stored import Stored, stored_axes
from qpc.backends.litert.tables import (
    Kind,
    Options,
    Quantization,
    Table,
    Value,
    operator,
    operator_code,
    subgraph,
    tensor,
)


class Writer:
    """The tensors and calls so far; what refers to a tensor is its index."""

    def __init__(self) -> None:
        self._tensors: list[Stored] = []
        self._names: set[str] = set()
        self._unnamed: set[int] = set()  # tensors whose names are made up
        self._calls: list[Table] = []
        self._codes: dict[Kind, int] = {}
        self._constants: dict[Stored, int] = {}

    def stored(self, index: int) -> Stored:
        """A tensor of the file."""
        return self._tensors[index]

    def like(self, index: int, shape: Sequence[int], **changes: Any) -> Stored:
        """What a tensor of another shape is, but for `changes`."""
        of = self.stored(index)
        found = {"name": "", "shape": tuple(shape), "dtype": of.dtype, "grid": of.grid}
        return Stored(**{**found, **changes})

    def add(self, made: Stored) -> int:
        """A further tensor, under a name that is free."""
        index = len(self._tensors)
        if not made.name:
            self._unnamed.add(index)
        name = self._free(made.name or f"value_{index}")
        self._tensors.append(replace(made, name=name))
        return index

    def named(self, index: int, name: str) -> None:
        """Give a tensor a name, if it has none that says something."""
        if index in self._unnamed:
            self._unnamed.discard(index)
            self._tensors[index] = replace(self._tensors[index], name=self._free(name))

    def _free(self, name: str) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def constant(
        self, value: npt.NDArray[Any], grid: Quantization | None = None, name: str = ""
    ) -> int:
        """A tensor with contents, stored as they are; the same one for the same contents."""
        contents = np.ascontiguousarray(value)
        dtype = str(contents.dtype)
        # numpy makes a row of a scalar
        made = Stored(name, tuple(np.shape(value)), dtype, grid, contents.tobytes())
        if made not in self._constants:
            self._constants[made] = self.add(made)
        return self._constants[made]

    def number(self, value: float) -> int:
        """A constant float32."""
        return self.constant(np.array(value, np.float32))

    def row(self, values: Sequence[int]) -> int:
        """A constant row of int32."""
        return self.constant(np.array(values, np.int32))

    def emit(
        self,
        kind: Kind,
        inputs: Sequence[int],
        made: Stored,
        options: tuple[int, Mapping[int, Value]] | None = None,
    ) -> int:
        """A call of one result, whose index it returns. options: see `Options`."""
        code = self._codes.setdefault(kind, len(self._codes))
        result = self.add(made)
        chosen = Options(options[0], Table(options[1])) if options else None
        self._calls.append(operator(code, inputs, [result], chosen))
        return result

    # --- layouts ----------------------------------------------------------------------------------

    def arrange(self, index: int, order: Sequence[int], wanted: Sequence[int]) -> int:
        """A tensor whose axes are `order`, with them as in `wanted`; both name the same axes."""
        moved = [order.index(axis) for axis in wanted]
        shape = self.stored(index).shape
        target = [shape[i] for i in moved]
        if moved == sorted(moved):
            return index
        large = [i for i in moved if shape[i] != 1]
        if large == sorted(large):  # only axes of size 1 change their places
            return self.reshape(index, target)
        return self.emit(Kind.TRANSPOSE, [index, self.row(moved)], self.like(index, target))

    def reshape(self, index: int, shape: Sequence[int]) -> int:
        """The same values in the same order, with other axes."""
        if self.stored(index).shape == tuple(shape):
            return index
        options = (17, {0: np.array(shape, np.int32)})
        return self.emit(Kind.RESHAPE, [index, self.row(shape)], self.like(index, shape), options)

    def logical(self, index: int) -> int:
        """A stored tensor with its axes in the order of the graph."""
        rank = len(self.stored(index).shape)
        return self.arrange(index, stored_axes(rank), range(rank))

    def as_stored(self, index: int) -> int:
        """A tensor whose axes are in the order of the graph, as it is stored."""
        rank = len(self.stored(index).shape)
        return self.arrange(index, range(rank), stored_axes(rank))

    # --- the file ---------------------------------------------------------------------------------

    def codes(self) -> list[Table]:
        """The operators that are called."""
        return [operator_code(kind) for kind in self._codes]

    def graph(self, inputs: Sequence[int], outputs: Sequence[int]) -> tuple[Table, list[bytes]]:
        """All calls between tensors, and the contents of these, the first of which is empty."""
        buffers, tables = [b""], []
        for each in self._tensors:
            buffer = len(buffers) if each.data else 0
            buffers += [each.data] if each.data else []
            tables.append(tensor(each.name, each.shape, each.dtype, buffer, each.grid))
        return subgraph(tables, inputs, outputs, self._calls), buffers
