"""Nodes and constants of an ONNX model as they come, with names that people find their way by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Scope:
    """What nodes are written for.

    path: how their names begin: the user's module. value: how the names of their values begin.
    doc: the line of the user's model. about: what else is known, as text.
    """

    path: str = "model"
    value: str = "value"
    doc: str = ""
    about: Mapping[str, str] | None = None


class Writer:
    """The ONNX nodes and constants so far."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}  # unnamed constants
        self._renamed: dict[str, str] = {}
        self._taken: set[str] = set()
        self._node_names: set[str] = set()
        self._scope = Scope()
        self._fresh: set[str] = set()

    @contextmanager
    def scope(self, scope: Scope) -> Iterator[None]:
        """Nodes that are emitted within are written for this."""
        before = self._scope, self._fresh
        self._scope, self._fresh = scope, set()
        try:
            yield
        finally:
            self._scope, self._fresh = before

    @property
    def value_name(self) -> str:
        """How the value is called that is being written."""
        return self._scope.value

    def emit(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node of one output, whose name it returns; an empty input is one that is left out."""
        return self.emit_several(kind, inputs, 1, **attributes)[0]

    def emit_several(
        self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any
    ) -> tuple[str, ...]:
        """A node of several outputs, whose names it returns."""
        from onnx import helper

        scope = self._scope
        names = [self.unique(f"{scope.value}/{kind}") for _ in range(outputs)]
        name = _free(f"{scope.path}/{kind}", self._node_names)
        node = helper.make_node(kind, list(inputs), names, name, scope.doc, **attributes)
        for key, text in (scope.about or {}).items():
            node.metadata_props.add(key=key, value=text)
        self._nodes.append(node)
        self._fresh.update(names)
        return tuple(names)

    def constant(self, value: npt.NDArray[Any] | np.generic, name: str = "") -> str:
        """The name of a constant; equal ones without a name of their own are one."""
        from onnx import numpy_helper

        array = np.asarray(value)
        key = (array.dtype.str + array.dtype.name, array.shape, array.tobytes())
        if not name and key in self._known:
            return self._known[key]
        made = self.unique(name or "constant")
        self._constants[made] = numpy_helper.from_array(array, made)
        if not name:
            self._known[key] = made
        return made

    def integers(self, values: Sequence[int]) -> str:
        """The name of a constant row of int64."""
        return self.constant(np.array(values, np.int64))

    def unique(self, name: str) -> str:
        """`name`, or another one if a tensor has it already."""
        return _free(name, self._taken)

    def named(self, tensor: str, name: str) -> str:
        """Give a tensor that was emitted in this scope another name; what is older keeps its own.

        Returns the name that it has now.
        """
        if tensor not in self._fresh or tensor == name:
            return tensor
        self._fresh.discard(tensor)
        made = self.unique(name)
        self._renamed[tensor] = made
        return made

    def written(
        self, outputs: Sequence[str]
    ) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """The nodes and the constants that these tensors depend on, in order."""
        needed, nodes = set(outputs), []
        for node in self._nodes:
            node.input[:] = [self._renamed.get(name, name) for name in node.input]
            node.output[:] = [self._renamed.get(name, name) for name in node.output]
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        constants = [tensor for name, tensor in self._constants.items() if name in needed]
        return nodes[::-1], constants


def _free(name: str, taken: set[str]) -> str:
    """`name`, or with a number behind it; it is taken then."""
    made, number = name, 0
    while made in taken:
        number += 1
        made = f"{name}_{number}"
    taken.add(made)
    return made
