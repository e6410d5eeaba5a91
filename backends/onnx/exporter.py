"""What the ONNX forms of operators are written with: names, nodes, constants, grids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.calls import arguments
from qpc.errors import BackendError, QPCError, UnsupportedOpError
from qpc.meta import attribute, info
from qpc.quant.grid import QParams
from qpc.shapes import concrete_shapes
from qpc.types import TensorType, dtype_name

if TYPE_CHECKING:
    import onnx

Rule = Callable[["Exporter", Node], str]
"""Emits a call's operator and returns the name of its float result, which the exporter rounds."""

_OPSET, _IR_VERSION = 17, 10  # what other runtimes have known for years


class Exporter:
    """One export: the ONNX nodes and constants so far, and the name of every value of the graph.

    The name of an integer value is that of the float value behind its DequantizeLinear.
    """

    def __init__(self, gm: GraphModule, batch: int, rules: Mapping[object, Rule]) -> None:
        self.gm, self._rules = gm, rules
        self.types = concrete_shapes(gm, batch)
        self.names: dict[Node, str] = {}
        self.rounded_later: set[Node] = set()  # values whose readers bring them to their grid
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        """The whole graph."""
        from onnx import helper

        inputs, outputs = [], []
        for node in self.gm.graph.nodes:
            if node.op == "placeholder":
                self.names[node] = node.name
                inputs.append(self._value_info(node))
                grid = info(node).qparams
                if grid is not None and self._is_of_integers(node):  # which stand for reals
                    ends = self._ends(grid)
                    self.names[node] = self.emit("DequantizeLinear", [node.name, *ends])
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                outputs = [self._value_info(value) for value in node.all_input_nodes]
        constants = list(self._constants.values())
        graph = helper.make_graph(self._nodes, "qpc", inputs, outputs, constants)
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)

    def _call(self, node: Node) -> None:
        export = self._rules.get(node.target)
        if export is None:
            raise UnsupportedOpError(
                no_form(node),
                node=node,
                fix="register one with qpc.backends.onnx.register_export",
            )
        name = self._written(node, export)
        found = self.types[node]
        integer = isinstance(found, TensorType) and found.dtype in (torch.uint8, torch.int8)
        if integer and node not in self.rounded_later:
            name = self.round(name, self.grid(node))
        self.names[node] = name

    def _written(self, node: Node, rule: Rule) -> str:
        try:
            name = rule(self, node)
        except QPCError:
            raise
        except Exception as e:  # whatever comes up in rules of other packages
            raise BackendError(
                f"the ONNX form of operator {node.target} failed with {type(e).__name__}: {e}",
                node=node,
            ) from e
        if not isinstance(name, str):
            raise BackendError(
                f"the ONNX form of operator {node.target} returned {type(name).__name__}, not the"
                " name of its result",
                node=node,
            )
        return name

    # --- for the operators ------------------------------------------------------------------------

    def grid(self, node: Node) -> QParams:
        """The grid of an integer value."""
        grid = info(node).qparams
        if grid is None:
            raise BackendError("the grid of an integer value is not known", node=node)
        full = (0, 255) if grid.dtype is torch.uint8 else (-128, 127)
        if (grid.lo, grid.hi) != full:
            raise BackendError("no ONNX form for activations of fewer than 8 bits", node=node)
        return grid

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of a tensor."""
        found = self.types[node]
        if not isinstance(found, TensorType):
            raise UnsupportedOpError("the value is not one tensor", node=node)
        return found.shape

    def value(self, node: Node, argument: str) -> str:
        """The name of an argument that is a computed tensor, or a constant on a grid."""
        source = arguments(node)[argument]
        if isinstance(source, Node) and source.op == "get_attr" and info(source).qparams:
            integers = self.constant(self.tensor(node, argument).numpy())
            return self.emit("DequantizeLinear", [integers, *self._ends(self.grid(source))])
        if not isinstance(source, Node) or source not in self.names:
            raise UnsupportedOpError(f"{argument!r} of {node.target} is not computed", node=node)
        return self.names[source]

    def tensor(self, node: Node, argument: str) -> Tensor:
        """An argument that is a parameter or buffer."""
        source = arguments(node)[argument]
        if not isinstance(source, Node) or source.op != "get_attr":
            raise UnsupportedOpError(f"{argument!r} of {node.target} is not constant", node=node)
        return attribute(self.gm, str(source.target)).detach()

    def quantized(self, name: str, grid: QParams) -> str:
        """A QuantizeLinear."""
        return self.emit("QuantizeLinear", [name, *self._ends(grid)])

    def round(self, name: str, grid: QParams) -> str:
        """A QuantizeLinear and a DequantizeLinear."""
        ends = self._ends(grid)
        integer = self.emit("QuantizeLinear", [name, *ends])
        return self.emit("DequantizeLinear", [integer, *ends])

    def _ends(self, grid: QParams) -> list[str]:
        zero_point = np.array(grid.zero_point, dtype_name(grid.dtype))
        return [self.constant(np.float32(grid.scale)), self.constant(zero_point)]

    def dequantized(self, integer: Tensor, scales: Tensor, axis: int = 0) -> str:
        """A constant behind a DequantizeLinear; scales by index of an axis."""
        value = integer.numpy()
        zeros = np.zeros(tuple(scales.shape), value.dtype)
        ends = [self.constant(scales.numpy()), self.constant(zeros)]
        return self.emit("DequantizeLinear", [self.constant(value), *ends], axis=axis)

    def clipped(self, node: Node, name: str) -> str:
        """The result of an integer operator within the ends that it clamps to.

        A QuantizeLinear clamps to the whole grid, so only narrower ends need an operator.
        """
        given = arguments(node)
        if "greatest" in given:
            return self._bounded(name, given["least"], given["greatest"])
        grid = self.grid(node)
        lo, hi = (
            "" if given[end] == whole else self.constant(real_of(grid, given[end]))
            for end, whole in (("lo", grid.lo), ("hi", grid.hi))
        )
        if hi == "" and given["lo"] == grid.zero_point:
            return self.emit("Relu", [name]) if lo else name
        return self.emit("Clip", [name, lo, hi]) if lo or hi else name

    def _bounded(self, name: str, least: float | None, greatest: float | None) -> str:
        """A float result between two bounds, if there are any: no QuantizeLinear follows."""
        if least is None and greatest is None:
            return name
        if (least, greatest) == (0.0, None):
            return self.emit("Relu", [name])
        ends = ["" if b is None else self.constant(np.float32(b)) for b in (least, greatest)]
        return self.emit("Clip", [name, *ends])

    def scale(self, node: Node) -> float:
        """The scale of a value's grid; 1.0 for the float result of an integer operator."""
        return 1.0 if "greatest" in arguments(node) else self.grid(node).scale

    def emit(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node of one output, whose name it returns."""
        from onnx import helper

        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def constant(self, value: npt.NDArray[Any] | np.generic) -> str:
        """The name of a constant."""
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def integers(self, values: Sequence[int]) -> str:
        """The name of a constant row of int64."""
        return self.constant(np.array(values, np.int64))

    def _is_of_integers(self, node: Node) -> bool:
        found = self.types[node]
        return isinstance(found, TensorType) and found.dtype in (torch.uint8, torch.int8)

    def _value_info(self, node: Node) -> onnx.ValueInfoProto:
        from onnx import helper

        found = self.types[node]
        assert isinstance(found, TensorType)
        dtype = np.dtype(dtype_name(found.dtype))
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        counted = node.op == "placeholder" and info(node).qparams is not None
        if node in self.names and self._is_of_integers(node) and not counted:
            raise BackendError("no ONNX form for a model that returns integers", node=node)
        return helper.make_tensor_value_info(self.names[node], kind, found.shape)


def no_form(node: Node) -> str:
    """What is wrong with a call that no rule can write."""
    return f"no ONNX form for {node.target}"


def real_of(grid: QParams, point: int) -> np.float32:
    """What a point of a grid stands for."""
    return np.float32((point - grid.zero_point) * grid.scale)
