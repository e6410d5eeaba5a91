"""What the .tflite forms of operators are written with: tensors, calls, constants, grids, layouts.

TensorFlow Lite keeps images as NHWC. So every value of four axes is stored in that order, and rules
that name axes say which of the stored ones they mean; values of other ranks are stored as they are.
Its integers are int8: unsigned values are stored less 128, and so are their zero points.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
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
from qpc.backends.litert.tables import (
    Activation,
    Kind,
    Number,
    Options,
    Quantization,
    Table,
    Value,
    byte,
    model,
    operator,
    operator_code,
    signature,
    subgraph,
    tensor,
)
from qpc.calls import arguments
from qpc.errors import BackendError, UnsupportedOpError
from qpc.meta import attribute, info
from qpc.quant.grid import QParams
from qpc.shapes import concrete_shapes
from qpc.types import TensorType, dtype_name

Rule = Callable[["Exporter", Node], int]
"""Writes a call and returns the index of its result, or raises `Refused`."""

_SIXTH = 6.0  # where ReLU6 ends


class Refused(Exception):  # noqa: N818  # no error by itself: all of them become one
    """Why a call has no form in the format."""


@dataclass
class Exporter:
    """One export: the tensors and calls so far, and which tensor every value of the graph is.

    batch: the only batch size of the file. integers: inputs and outputs are int8, not float32.
    """

    gm: GraphModule
    batch: int
    rules: Mapping[object, Rule]
    integers: bool = False
    values: dict[Node, int] = field(default_factory=dict)
    refused: dict[Node, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.types = concrete_shapes(self.gm, self.batch)
        self._tensors: list[Stored] = []
        self._names: set[str] = set()
        self._calls: list[Table] = []
        self._codes: dict[Kind, int] = {}
        self._constants: dict[Stored, int] = {}

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
        except Refused as why:
            self.refused[node] = str(why)

    def _require_forms(self) -> None:
        named = {f"{n.target} ({why})": n for n, why in self.refused.items() if why}
        if named:
            raise UnsupportedOpError(
                f"no .tflite form for {', '.join(named)}",
                node=next(iter(named.values())),
                fix="keep these operators out of the model, or export to ONNX",
            )

    # --- for the operators ------------------------------------------------------------------------

    def shape(self, node: Node) -> tuple[int, ...]:
        """The logical shape of a tensor."""
        if isinstance(found := self.types[node], TensorType):
            return found.shape
        raise UnsupportedOpError("the value is not one tensor", node=node)

    def stored(self, index: int) -> Stored:
        """A tensor of the file."""
        return self._tensors[index]

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
        """The tensor of an argument, computed or constant."""
        if isinstance(source := arguments(node)[argument], Node):
            return self.operand(source)
        raise UnsupportedOpError(f"{argument!r} of {node.target} is no tensor", node=node)

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

    def constant(
        self, value: npt.NDArray[Any], grid: Quantization | None = None, name: str = ""
    ) -> int:
        """A tensor with contents, stored as they are; the same one for the same contents."""
        contents = np.ascontiguousarray(value)
        dtype = str(contents.dtype)
        # numpy makes a row of a scalar
        made = Stored(name, tuple(np.shape(value)), dtype, grid, contents.tobytes())
        if made not in self._constants:
            self._constants[made] = self._add(made)
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
        result = self._add(made)
        chosen = Options(options[0], Table(options[1])) if options else None
        self._calls.append(operator(code, inputs, [result], chosen))
        return result

    def result(self, node: Node, **changes: Any) -> Stored:
        """What the tensor of a call is, but for `changes`."""
        integer = self.is_integer(node)
        found = {
            "name": str(node.name),
            "shape": stored_shape(self.shape(node)),
            "dtype": "int8" if integer else "float32",
            "grid": stored_grid(self.grid(node)) if integer else None,
        }
        of = self.types[node]
        if isinstance(of, TensorType) and not integer and of.dtype is not torch.float32:
            raise Refused(f"its values are {dtype_name(of.dtype)}")
        return Stored(**{**found, **changes})

    def like(self, index: int, shape: Sequence[int], **changes: Any) -> Stored:
        """What a tensor of another shape is, but for `changes`."""
        of = self.stored(index)
        found = {"name": "", "shape": tuple(shape), "dtype": of.dtype, "grid": of.grid}
        return Stored(**{**found, **changes})

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

    def requantized(self, node: Node, index: int) -> int:
        """An integer tensor brought to the grid of a call."""
        made = self.result(node)
        if self.stored(index).grid == made.grid:
            return index
        return self.emit(Kind.QUANTIZE, [index], made)

    # --- ends -------------------------------------------------------------------------------------

    def _input(self, node: Node) -> int:
        self.shape(node)  # it is one tensor
        if not self.integers:
            return self._add(self.result(node))
        readers = list(node.users)
        grids = {info(user).qparams for user in readers}
        if len(grids) != 1 or None in grids:
            raise UnsupportedOpError(
                "an input that is not rounded to one grid cannot be int8",
                node=node,
                fix="export with float inputs and outputs",
            )
        return self._add(self.result(readers[0], name=str(node.name)))

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

    def _add(self, made: Stored) -> int:
        name = made.name or f"value_{len(self._tensors)}"
        while name in self._names:
            name += "_"
        self._names.add(name)
        self._tensors.append(replace(made, name=name))
        return len(self._tensors) - 1

    def _file(self, outputs: Sequence[tuple[str, int]]) -> bytes:
        buffers, tables = [b""], []
        for each in self._tensors:
            buffer = len(buffers) if each.data else 0
            buffers += [each.data] if each.data else []
            tables.append(tensor(each.name, each.shape, each.dtype, buffer, each.grid))
        inputs = {str(n.name): self.values[n] for n in self.gm.graph.find_nodes(op="placeholder")}
        indices = [index for _, index in outputs]
        graph = subgraph(tables, list(inputs.values()), indices, self._calls)
        layouts = {
            name: "NHWC" if len(self.stored(index).shape) == 4 else "as in the model"
            for name, index in [*inputs.items(), *outputs]
        }
        return model(
            [operator_code(kind) for kind in self._codes],
            graph,
            buffers,
            [signature(inputs, dict(outputs))],
            {"qpc": json.dumps({"layouts": layouts}).encode()},
            "quantized by qpc",
        )


def _no_form(to: Exporter, node: Node) -> int:
    if str(node.target).startswith("qpc.") and str(node.target).endswith("_float.default"):
        raise Refused('its result is not rounded: quantize with LayerConfig(results="integer")')
    raise Refused("it has none")
