"""What the ONNX forms of operators are written with: values, grids, sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.calls import arguments
from qpc.errors import BackendError, QPCError, UnsupportedOpError
from qpc.exporting.grids import TensorGrid
from qpc.exporting.names import module_of, source_line, value_names
from qpc.exporting.onnx.form import OnnxForm
from qpc.exporting.onnx.rounding_nodes import stored_grid, write_grid
from qpc.exporting.onnx.sizes import ValueType, value_types
from qpc.exporting.onnx.writer import Scope, Writer
from qpc.layers import integer_layer
from qpc.meta import attribute, info
from qpc.quant.grid import QParams
from qpc.types import BatchDim, Dim, Shape, dtype_name

if TYPE_CHECKING:
    pass

Rule = Callable[["Exporter", Node], str | tuple[str, ...]]
"""Emits a call's operator and returns the name of its result, or those of its results.

Where the form has float operators between grids, the result is the float one, which the exporter
rounds; in the exact form it is what the graph computes.
"""

INTEGERS = (torch.uint8, torch.int8)


class Exporter(Writer):
    """One export: the ONNX nodes and constants so far, and the name of every value of the graph.

    names: of tensors, by the nodes that compute them. The name of a value that was rounded is that
    of the float value behind its DequantizeLinear. inputs: names of the model's inputs.
    grids: those of all rounded values and weights, in order.
    """

    def __init__(self, gm: GraphModule, form: OnnxForm, rules: Mapping[object, Rule]) -> None:
        super().__init__(form.opset)
        self.gm, self.form, self._rules = gm, form, rules
        self.types = value_types(gm, form.batch)
        self.names: dict[Node, str] = {}
        self.inputs: dict[Node, str] = {}
        self.parts: dict[Node, tuple[str, ...]] = {}  # of operators with several results
        self.rounded_later: set[Node] = set()  # values whose readers bring them to their grid
        self.left_out: set[Node] = set()  # values that are not rounded, as they join a sum
        self.grids: list[TensorGrid] = []
        self.refused: list[QPCError] = []
        self.value_names = value_names(gm)
        self._sizes: dict[Dim, str] = {}
        self._ends: tuple[int, int] | None = None  # what the value being written is clamped to

    # --- the graph --------------------------------------------------------------------------------

    def write(self) -> None:
        """The whole graph, as far as there are rules; `refused` has the calls without one."""
        for node in self.gm.graph.nodes:
            if node.op == "placeholder":
                self._input(node)
            elif node.op == "call_function":
                with self.scope(self._scope_of(node)):
                    self._call(node)

    def _input(self, node: Node) -> None:
        """An input; where integers stand for reals, its value is these."""
        self.inputs[node] = self.names[node] = self.unique(node.name)
        grid = info(node).qparams
        if grid is not None and self.is_integer(node) and not self.form.exact:
            zero_point = np.array(grid.zero_point, dtype_name(grid.dtype))
            ends = [self.constant(np.float32(grid.scale)), self.constant(zero_point)]
            self.names[node] = self.emit("DequantizeLinear", [self.inputs[node], *ends])

    def _scope_of(self, node: Node) -> Scope:
        value, path = self.value_names[node], module_of(node)
        about = {"qpc.operator": str(node.target), "qpc.module": path, "qpc.value": value}
        # Operators that PyTorch does without a module are named after the values that they make.
        return Scope(path or value, value, source_line(node), about if self.opset >= 17 else None)

    def _call(self, node: Node) -> None:
        if not isinstance(self.types[node], ValueType | tuple):
            return  # a size, which is written where it is needed
        export, self._ends = self._rules.get(node.target), None
        try:
            if export is None:
                raise UnsupportedOpError(no_form(node), node=node, fix=REGISTER)  # noqa: TRY301
            made = self._written(node, export)
        except UnsupportedOpError as e:
            self.refused.append(e)
            made = node.name
        if isinstance(made, tuple):
            self.parts[node] = made
            return
        integer = self.is_integer(node) and not self.form.exact
        if integer and node not in self.rounded_later | self.left_out and not self.refused:
            made = self.round(made, self.grid(node))
        self.names[node] = self.named(made, self.value_names[node])

    def _written(self, node: Node, rule: Rule) -> str | tuple[str, ...]:
        try:
            made = rule(self, node)
        except QPCError:
            raise
        except Exception as e:  # whatever comes up in rules of other packages
            if self.refused:  # it may be what an operator without a form has left behind
                return node.name
            raise BackendError(
                f"the ONNX form of operator {node.target} failed with {type(e).__name__}: {e}",
                node=node,
            ) from e
        if not isinstance(made, str | tuple):
            raise BackendError(
                f"the ONNX form of operator {node.target} returned {type(made).__name__}, not the"
                " name of its result",
                node=node,
            )
        return made

    # --- types ------------------------------------------------------------------------------------

    def type(self, node: Node) -> ValueType:
        """Shape and dtype of a tensor."""
        found = self.types[node]
        if not isinstance(found, ValueType):
            raise UnsupportedOpError("the value is not one tensor", node=node)
        return found

    def shape(self, node: Node) -> Shape:
        """The shape of a tensor; a dimension that depends on an open batch size is a `BatchDim`."""
        return self.type(node).shape

    def size(self, node: Node, axis: int) -> int:
        """A dimension that must be a number."""
        found = self.shape(node)[axis]
        if isinstance(found, BatchDim):
            raise UnsupportedOpError(
                f"the ONNX form of {node.target} needs the batch size", node=node, fix="batch=1"
            )
        return found

    def is_integer(self, node: Node) -> bool:
        """Whether a value is a tensor of the graph's 8-bit integers."""
        found = self.types[node]
        return isinstance(found, ValueType) and found.dtype in INTEGERS

    def number(self, value: object) -> object:
        """An argument; of a node what it yields: a `BatchDim` if that depends on an open batch."""
        return self.types[value] if isinstance(value, Node) else value

    # --- values -----------------------------------------------------------------------------------

    def grid(self, node: Node) -> QParams:
        """The grid of an integer value."""
        grid = info(node).qparams
        if grid is None:
            raise BackendError("the grid of an integer value is not known", node=node)
        return stored_grid(grid, self.form, node)

    def scale(self, node: Node) -> float:
        """The scale of a value's grid; 1.0 for the float result of an integer operator."""
        return 1.0 if "greatest" in arguments(node) else self.grid(node).scale

    def of(self, source: Node) -> str:
        """The name of a value: computed, a parameter, or a buffer."""
        if source in self.names:
            return self.names[source]
        if source.op == "get_attr":
            self.names[source] = self._constant_of(source)
            return self.names[source]
        raise UnsupportedOpError("the value is not one tensor", node=source)

    def _constant_of(self, source: Node) -> str:
        value, name = attribute(self.gm, str(source.target)).detach(), str(source.target)
        grid = info(source).qparams
        if grid is None or self.form.exact:
            return self.constant(value.numpy(), name)
        real = self.constant(grid.dequantize(value).numpy(), name)
        return self.round(real, self.grid(source))

    def value(self, node: Node, argument: str) -> str:
        """The name of an argument that is a tensor."""
        source = arguments(node)[argument]
        if not isinstance(source, Node):
            raise UnsupportedOpError(f"{argument!r} of {node.target} is not computed", node=node)
        return self.of(source)

    def tensor(self, node: Node, argument: str) -> Tensor:
        """An argument that is a parameter or buffer."""
        source = arguments(node)[argument]
        if not isinstance(source, Node) or source.op != "get_attr":
            raise UnsupportedOpError(f"{argument!r} of {node.target} is not constant", node=node)
        return attribute(self.gm, str(source.target)).detach()

    def operand(self, value: object, dtype: torch.dtype) -> str:
        """A tensor or number as a tensor of this dtype."""
        if isinstance(value, Node) and isinstance(self.types[value], ValueType):
            return self.cast(self.of(value), dtype, self.type(value).dtype)
        found = self.number(value)
        if isinstance(found, BatchDim):
            return self.cast(self.extent(found), dtype, torch.int64)
        if not isinstance(found, int | float | bool):
            raise UnsupportedOpError(f"{found!r} is neither a tensor nor a number")
        return self.constant(np.array(found, dtype_name(dtype)))

    def cast(self, name: str, dtype: torch.dtype, before: torch.dtype | None = None) -> str:
        """A tensor in another dtype."""
        return name if dtype == before else self.emit("Cast", [name], to=onnx_type(dtype))

    # --- rounding ---------------------------------------------------------------------------------

    def quantized(self, name: str, grid: QParams) -> str:
        """A QuantizeLinear."""
        return write_grid(self, name, grid, only_integers=True)

    def round(self, name: str, grid: QParams) -> str:
        """A QuantizeLinear and a DequantizeLinear, or an entry in the list of grids."""
        if self.form.rounds:
            return write_grid(self, name, grid, self._ends)
        if any(found.tensor == name for found in self.grids):
            name = self.emit("Identity", [name])  # it has another grid as well
        name = self.named(name, self.value_name)
        ends = grid.zero_point, grid.lo, grid.hi
        self.grids.append(TensorGrid(name, (grid.scale,), *ends))
        return name

    def clipped(self, node: Node, name: str) -> str:
        """The result of an integer operator within the ends that it clamps to.

        Where a QuantizeLinear follows, the clamp stands behind it; it needs no operator where it is
        what the integers end at. Otherwise it is written as a ReLU if it is one, and so is one at
        the end of a grid in models without nodes for grids.
        """
        given, grid = arguments(node), info(node).qparams
        if "greatest" in given:
            return clip(self, name, given["least"], given["greatest"])
        stored = self.grid(node)
        assert grid is not None
        moved = stored.zero_point - grid.zero_point
        low, high = given["lo"] + moved, given["hi"] + moved
        if self.form.kind == "qdq":
            self._ends = low, high
            return name
        relu = low == stored.zero_point
        explicit = self.form.explicit_clamps and relu and not self._never_negative(node)
        below = explicit or low > stored.lo
        above = high < stored.hi or (explicit and _is_relu6(stored))
        if relu and not above:
            return self.emit("Relu", [name]) if below else name
        ends = [
            self.constant(np.float32((point - stored.zero_point) * stored.scale)) if needed else ""
            for point, needed in ((low, below or relu), (high, above))
        ]
        return self.emit("Clip", [name, *ends]) if below or above else name

    def _never_negative(self, node: Node) -> bool:
        """Whether a value of 0 or more needs no ReLU to be that: it is made of such values."""
        if integer_layer(node) is not None or arguments(node).get("b_multiplier", 0) < 0:
            return False
        grids = [self.grid(source) for source in node.all_input_nodes if self.is_integer(source)]
        return all(grid.zero_point == grid.lo for grid in grids)

    # --- sizes ------------------------------------------------------------------------------------

    def reshaped(self, name: str, shape: Sequence[Dim]) -> str:
        """A tensor in another shape."""
        open_sizes = sum(isinstance(size, BatchDim) for size in shape)
        if open_sizes == 1 and 0 not in shape:
            sizes = self.integers([-1 if isinstance(size, BatchDim) else size for size in shape])
        else:
            sizes = self.extents(shape)
        empty = {"allowzero": 1} if 0 in shape and self.opset >= 14 else {}
        return self.emit("Reshape", [name, sizes], **empty)

    def extents(self, shape: Sequence[Dim]) -> str:
        """A row of int64: the sizes of a shape."""
        if fixed := [size for size in shape if not isinstance(size, BatchDim)]:
            if len(fixed) == len(shape):
                return self.integers(fixed)
        elif not shape:
            return self.integers([])
        return self.emit("Concat", [self.extent(size) for size in shape], axis=0)

    def extent(self, size: Dim) -> str:
        """A size as int64[1]; one that depends on the batch is computed from the inputs."""
        if not isinstance(size, BatchDim):
            return self.integers([size])
        if size not in self._sizes:
            with self.scope(Scope("batch", f"size/{size}")):
                self._sizes[size] = self._computed(size)
        return self._sizes[size]

    def _computed(self, size: BatchDim) -> str:
        for node in self.gm.graph.nodes:
            axes = self.types[node] if node.op == "placeholder" else None
            for axis, found in enumerate(axes.shape if isinstance(axes, ValueType) else ()):
                if isinstance(found, BatchDim):
                    shape = self.emit("Shape", [self.names[node]])
                    name = self.emit("Gather", [shape, self.integers([axis])], axis=0)
                    name = self._scaled(name, ("Sub", found.offset), ("Div", found.factor))
                    return self._scaled(name, ("Mul", size.factor), ("Add", size.offset))
        raise UnsupportedOpError("no input has a batch axis", fix="batch=1")

    def _scaled(self, name: str, *steps: tuple[str, int]) -> str:
        for kind, number in steps:
            if number != (1 if kind in ("Div", "Mul") else 0):
                name = self.emit(kind, [name, self.integers([number])])
        return name


REGISTER = "register one with qpc.exporting.onnx.register_export"


def clip(to: Exporter, name: str, low: float | None = None, high: float | None = None) -> str:
    """Float values brought between two ends; None is no end."""
    if low == 0 and high is None:
        return to.emit("Relu", [name])
    if low is None and high is None:
        return name
    ends = ["" if end is None else to.constant(np.float32(end)) for end in (low, high)]
    return to.emit("Clip", [name, *ends])


def no_form(node: Node) -> str:
    """What is wrong with a call that no rule can write."""
    return f"no ONNX form for {node.target}"


def onnx_type(dtype: torch.dtype) -> int:
    """The number of a dtype in ONNX."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype_name(dtype))))


def _is_relu6(grid: QParams) -> bool:
    """Whether the highest point is where a ReLU6 clamps."""
    return abs((grid.hi - grid.zero_point) * grid.scale - 6.0) <= grid.scale / 2
