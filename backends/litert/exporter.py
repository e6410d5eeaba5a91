"""What the .tflite forms of operators are written with: tensors, calls, constants, grids, layouts.

TensorFlow Lite keeps images as NHWC. So every value of four axes is stored in that order, and rules
that name axes say which of the stored ones they mean; values of other ranks are stored as they are.
Its integers are int8: unsigned values are stored less 128, and so are their zero points.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.backends.litert.stored import (
    Stored,
    as_stored,
    as_stored_point,
    stored_axes,
    stored_grid,
    stored_shape,
)
from qpc.backends.litert.tables import Activation, Kind, Number, byte, model, signature
from qpc.backends.litert.writer import Writer
from qpc.calls import arguments
from qpc.errors import BackendError, UnsupportedOpError
from qpc.layers import weighted
from qpc.meta import attribute, info, label, value_name
from qpc.quant.grid import QParams
from qpc.shapes import concrete_shapes
from qpc.types import TensorType, dtype_name

Rule = Callable[["Exporter", Node], int]
"""Writes a call and returns the index of its result, or raises `Refused`."""

_SIXTH = 6.0  # where ReLU6 ends


class Refused(Exception):  # noqa: N818  # no error by itself: all of them become one
    """Why a call has no form in the format."""


class Exporter(Writer):
    """One export: which tensor of the file every value of the graph is.

    batch: the only batch size of the file. integers: inputs and outputs are int8, not float32.
    """

    def __init__(
        self, gm: GraphModule, batch: int, rules: Mapping[object, Rule], integers: bool = False
    ) -> None:
        super().__init__()
        self.gm, self.batch, self.rules, self.integers = gm, batch, rules, integers
        self.types = concrete_shapes(gm, batch)
        self.values: dict[Node, int] = {}
        self.refused: dict[Node, str] = {}

    def write(self) -> bytes:
        """The whole file. Raises UnsupportedOpError that names all operators without a form."""
        for node in self.gm.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._input(node)
            elif node.op == "call_function" and isinstance(self.types[node], TensorType):
                self._call(node)
        self._require_forms()
        return self._file(self._outputs())

    def _call(self, node: Node) -> None:
        if any(source in self.refused for source in node.all_input_nodes):
            self.refused[node] = ""  # the reason is the one of its operand
            return
        rule = self.rules.get(node.target, _no_form)
        try:
            self.values[node] = rule(self, node)
            self.named(self.values[node], self.name_of(node))
        except Refused as why:
            self.refused[node] = str(why)

    def _require_forms(self) -> None:
        named = {n: f"{n.target} at {label(n)} ({why})" for n, why in self.refused.items() if why}
        if named:
            raise UnsupportedOpError(
                f"no .tflite form for {', '.join(named.values())}",
                node=next(iter(named)),
                fix=_FIXES.get(next(iter(self.refused.values())), _ONNX),
            )

    # --- for the operators ------------------------------------------------------------------------

    def shape(self, node: Node) -> tuple[int, ...]:
        """The logical shape of a tensor."""
        return self.shape_and_dtype(node).shape

    def shape_and_dtype(self, node: Node) -> TensorType:
        """Those of a tensor of the graph."""
        if isinstance(found := self.types[node], TensorType):
            return found
        raise UnsupportedOpError("the value is not one tensor", node=node)

    def is_integer(self, node: Node) -> bool:
        """Whether a value consists of the integers of a grid."""
        return getattr(self.types[node], "dtype", None) in (torch.uint8, torch.int8)

    def grid(self, node: Node) -> QParams:
        """The grid of an integer value, as the graph has it."""
        grid = info(node).qparams
        if grid is None:
            raise BackendError("the grid of an integer value is not known", node=node)
        return grid

    def value(self, node: Node, argument: str) -> int:
        """The tensor of an argument, computed or constant, of int8 or float32."""
        if not isinstance(source := arguments(node)[argument], Node):
            raise UnsupportedOpError(f"{argument!r} of {node.target} is no tensor", node=node)
        index = self.operand(source)
        if (dtype := self.stored(index).dtype) not in ("float32", "int8"):
            raise Refused(f"{argument!r} is {dtype}")
        return index

    def operand(self, source: Node) -> int:
        """The tensor of a value of the graph; parameters and buffers become constants."""
        if source.op != "get_attr" or source in self.values:
            return self.values[source]
        held = attribute(self.gm, str(source.target)).detach()
        shifted = as_stored(held) if self.is_integer(source) else held.numpy()
        data = shifted.transpose(stored_axes(shifted.ndim))
        grid = stored_grid(self.grid(source)) if self.is_integer(source) else None
        self.values[source] = self.constant(data, grid, str(source.target))
        return self.values[source]

    def tensor(self, node: Node, argument: str) -> Tensor:
        """An argument that is a parameter or buffer."""
        source = arguments(node)[argument]
        if not isinstance(source, Node) or source.op != "get_attr":
            raise UnsupportedOpError(f"{argument!r} of {node.target} is not constant", node=node)
        return attribute(self.gm, str(source.target)).detach()

    def name_of(self, node: Node) -> str:
        """How the tensor of a call is called: after the value of the traced model, if it is one."""
        return value_name(node) or str(node.name)

    def result(self, node: Node, **changes: Any) -> Stored:
        """What the tensor of a call is, but for `changes`."""
        integer = self.is_integer(node)
        found = {
            "name": self.name_of(node),
            "shape": stored_shape(self.shape(node)),
            "dtype": "int8" if integer else "float32",
            "grid": stored_grid(self.grid(node)) if integer else None,
        }
        dtype = self.shape_and_dtype(node).dtype
        if not integer and dtype is not torch.float32 and "dtype" not in changes:
            raise Refused(f"its values are {dtype_name(dtype)}")
        return Stored(**{**found, **changes})

    def shaped_as(self, node: Node, index: int) -> Stored:
        """What the tensor of a call is that leaves type and grid of a tensor as they are."""
        return self.like(index, stored_shape(self.shape(node)), name=self.name_of(node))

    # --- clamps -----------------------------------------------------------------------------------

    def activation(self, node: Node) -> Activation | None:
        """How an operator of its own clamps to `lo` and `hi` of a call; None if it cannot."""
        grid, given = self.grid(node), arguments(node)
        whole = torch.iinfo(grid.dtype)
        lo, hi, zero = given["lo"], given["hi"], grid.zero_point
        six = min(whole.max, zero + round(_SIXTH / grid.scale))
        if lo == whole.min and hi == whole.max:
            return Activation.NONE
        if lo != zero:
            return None
        return {whole.max: Activation.RELU, six: Activation.RELU6}.get(hi)

    def fused(self, node: Node) -> Number:
        """The field for that."""
        return byte(self.activation(node) or Activation.NONE)

    def clamped(self, node: Node, index: int) -> int:
        """The result of a call that had `fused`, within `lo` and `hi` if that was not enough."""
        return index if self.activation(node) is not None else self.bounded(node, index)

    def bounded(self, node: Node, index: int) -> int:
        """An integer tensor within `lo` and `hi` of a call."""
        grid, given, like = self.grid(node), arguments(node), self.stored(index)
        whole = torch.iinfo(grid.dtype)
        for end, kind, none in (("lo", Kind.MAXIMUM, whole.min), ("hi", Kind.MINIMUM, whole.max)):
            if given[end] != none:
                bound = np.array(as_stored_point(given[end], grid.dtype), np.int8)
                inputs = [index, self.constant(bound, like.grid)]
                index = self.emit(kind, inputs, self.like(index, like.shape))
        return index

    def requantized(self, node: Node, index: int) -> int:
        """An integer tensor brought to the grid of a call."""
        made = self.result(node)
        if self.stored(index).grid == made.grid:
            return index
        return self.emit(Kind.QUANTIZE, [index], made)

    # --- ends -------------------------------------------------------------------------------------

    def _input(self, node: Node) -> int:
        self.shape(node)  # it is one tensor
        dtype = dtype_name(self.shape_and_dtype(node).dtype)
        if not self.integers or dtype != "float32":
            kept = {"dtype": dtype} if dtype in ("bool", "int64") else {}
            return self.add(self.result(node, **kept))
        readers = list(node.users)
        grids = {info(user).qparams for user in readers}
        if len(grids) != 1 or None in grids:
            raise UnsupportedOpError(
                "an input that is not rounded to one grid cannot be int8",
                node=node,
                fix="export with float inputs and outputs",
            )
        return self.add(self.result(readers[0], name=str(node.name)))

    def _outputs(self) -> list[tuple[str, int]]:
        """Names and tensors."""
        (output,) = self.gm.graph.find_nodes(op="output")
        found: list[tuple[str, int]] = []
        for node in output.all_input_nodes:
            index = self.values[node]
            if self.integers and self.stored(index).dtype != "int8":
                raise UnsupportedOpError(
                    "an output that is not made of integers cannot be int8",
                    node=node,
                    fix="export with float inputs and outputs",
                )
            found.append((str(node.name), index))
        return found

    def _file(self, outputs: Sequence[tuple[str, int]]) -> bytes:
        inputs = {str(n.name): self.values[n] for n in self.gm.graph.find_nodes(op="placeholder")}
        graph, buffers = self.graph(list(inputs.values()), [index for _, index in outputs])
        layouts = {
            name: "NHWC" if len(self.stored(index).shape) == 4 else "as in the model"
            for name, index in [*inputs.items(), *outputs]
        }
        return model(
            self.codes(),
            graph,
            buffers,
            [signature(inputs, dict(outputs))],
            {"qpc": json.dumps({"layouts": layouts}).encode()},
            "quantized by qpc",
        )


def _no_form(to: Exporter, node: Node) -> int:
    if str(node.target).startswith("qpc.") and str(node.target).endswith("_float.default"):
        raise Refused(_NOT_ROUNDED)
    if weighted(node) is not None:
        raise Refused(_IN_FLOAT)
    raise Refused("it has none")


_NOT_ROUNDED, _IN_FLOAT = "its result is not rounded", "it is in float"
_ONNX = "keep these operators out of the model, or export to ONNX"
_FIXES = {
    _NOT_ROUNDED: "quantize with qpc.quant.config.LayerConfig(results='integer')",
    _IN_FLOAT: "qpc.quantize(gm, batches), or export to ONNX",
}
"""What to do about the first refusal, by its reason."""
