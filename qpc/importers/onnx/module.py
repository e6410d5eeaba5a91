"""An ONNX model as a PyTorch module, from which `torch.export` captures what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qpc.errors import QPCError, TraceError, UnsupportedOpError
from qpc.importers.onnx.clipped import Ends, clipped_ends
from qpc.importers.onnx.folding import folded
from qpc.importers.onnx.fused import with_named_functions
from qpc.importers.onnx.operators import RULES
from qpc.importers.onnx.quantized import with_scales_of_sums
from qpc.importers.onnx.values import Call, Value

if TYPE_CHECKING:
    import onnx

CALLS = "_onnx_calls"
"""The module that holds a module for each call, whose path its operators bear in the graph."""


class OnnxModule(nn.Module):
    """Runs the nodes of a model in order.

    inputs, outputs: names of tensors. calls: the nodes, but for constants. Initializers are
    parameters and buffers under their own names where these are paths of a module's attributes.
    """

    def __init__(self, model: onnx.ModelProto, opset: int) -> None:
        super().__init__()
        graph = model.graph
        constants = _constants(graph)
        self._names = {*constants, *(name for node in graph.node for name in node.output)}
        self._stored: dict[str, str] = {}
        self._small: dict[str, Value] = {}
        self.inputs = [i.name for i in graph.input if i.name not in constants]
        self.outputs = [o.name for o in graph.output]
        narrow = clipped_ends(graph, constants)
        written = [
            with_scales_of_sums(_call(node, place, opset, narrow), constants)
            for place, node in enumerate(graph.node)
            if node.op_type != "Constant"
        ]
        calls = [*folded(written, constants)]
        self.calls = with_named_functions(calls, constants, self.outputs)
        known = [_known_numbers(call, constants) for call in self.calls]
        steps = [_Step(*both) for both in zip(self.calls, known, strict=True)]
        self.add_module(CALLS, nn.ModuleList(steps))
        read = {
            name
            for call, numbers in zip(self.calls, known, strict=True)
            for place, name in enumerate(call.inputs)
            if place not in numbers
        }
        still = {n for c in self.calls if c.kind == "BatchNormalization" for n in c.inputs[3:]}
        for name, array in constants.items():
            if name in read or name in self.outputs:
                self._store(name, array, learned=name not in still)

    def _store(self, name: str, array: Any, *, learned: bool) -> None:
        """Whole numbers that shapes are made of stay numbers; all else is a tensor of the model."""
        if str(array.dtype) == "int64" and array.ndim <= 1:
            self._small[name] = array.tolist()
            return
        if array.dtype.isbuiltin != 1:  # numpy has no float8 and the like, and torch no text
            raise UnsupportedOpError(f"the constant {name!r} is {array.dtype}, which is not read")
        value = torch.from_numpy(array.copy())
        path = self._path(name)
        *folders, leaf = path.split(".")
        owner: nn.Module = self
        for part in folders:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        # Infinities are no weights, but what masks and extremes begin with.
        if learned and value.is_floating_point() and not bool(value.isinf().any()):
            owner.register_parameter(leaf, nn.Parameter(value))
        else:
            owner.register_buffer(leaf, value)
        self._stored[name] = path

    def _path(self, name: str) -> str:
        """A tensor's name, if that can be the path of an attribute; else a number.

        It cannot be within another tensor, as the scale `conv.weight.scale` is by its name.
        """
        *folders, leaf = parts = name.split(".")
        before = {".".join(parts[:count]) for count in range(1, len(parts))}
        owner: nn.Module | None = self
        legal = all(part.isidentifier() and not hasattr(nn.Module, part) for part in parts)
        if not legal or before & self._names or parts[0] in (CALLS, "inputs", "outputs", "calls"):
            return self._numbered()
        for part in folders:
            owner = owner._modules.get(part) if owner is not None else None
        return self._numbered() if owner is not None and hasattr(owner, leaf) else name

    def _numbered(self) -> str:
        return f"initializers_{len(self._stored)}"

    def forward(self, *inputs: Tensor) -> Any:
        values: dict[str, Value] = {"": None} | self._small
        values |= dict(zip(self.inputs, inputs, strict=True))
        for name, path in self._stored.items():
            owner, _, leaf = path.rpartition(".")
            values[name] = getattr(self.get_submodule(owner), leaf)
        for call, step in zip(self.calls, self.get_submodule(CALLS).children(), strict=True):
            made = step(*[values.get(name) for name in call.inputs])
            several = made if isinstance(made, tuple) else (made,)
            values |= dict(zip(call.outputs, several, strict=False))
        found = [values[name] for name in self.outputs]
        return found[0] if len(found) == 1 else tuple(found)


def _constants(graph: onnx.GraphProto) -> dict[str, Any]:
    """Arrays by the names of tensors: initializers and what Constant nodes hold."""
    from onnx import helper, numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            found[node.output[0]] = _constant(given)
    return found


def _call(node: onnx.NodeProto, place: int, opset: int, narrow: Mapping[str, Ends]) -> Call:
    """A node; place: its number, which is its name if it has none. narrow: `clipped_ends`."""
    from onnx import helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    text = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
    kind, inputs = str(node.op_type), tuple(node.input)
    if node.output[0] in narrow:  # then the nodes around the clip know what it does
        text["ends"] = narrow[node.output[0]]
        kind, inputs = ("Identity", inputs[:1]) if kind == "Clip" else (kind, inputs)
    about = {entry.key: entry.value for entry in node.metadata_props}
    name = node.name or f"node {place}"
    return Call(kind, name, opset, inputs, tuple(node.output), text, about)


_FEW = 64
_FIRST = ("Squeeze", "Unsqueeze", "Expand", "Tile", "Reshape", "Split", "CumSum", "Upsample")
_NUMBERS: Mapping[str, Sequence[int]] = {
    **dict.fromkeys(_FIRST, (1,)),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow"), (0, 1)),
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
}
"""Which inputs of operators are numbers where they are constants, and no tensors of the model."""


def _known_numbers(call: Call, constants: Mapping[str, Any]) -> dict[int, Value]:
    """Constants among the inputs of a call that are to be numbers, or rows of them."""
    places = (1,) if call.kind.startswith("Reduce") else _NUMBERS.get(call.kind, ())
    if call.kind == "Concat":
        places = tuple(range(len(call.inputs)))
    found: dict[int, Value] = {}
    for place in places:
        array = constants.get(call.inputs[place]) if place < len(call.inputs) else None
        rank = 0 if places == (0, 1) else 1  # rows are operands of arithmetic
        if call.kind == "Concat" and array is not None and array.dtype.kind != "i":
            continue
        if array is not None and array.ndim <= rank and array.size <= _FEW:
            found[place] = array.tolist()
    return found


class _Step(nn.Module):
    """Runs one node. known: inputs that are numbers."""

    def __init__(self, call: Call, known: Mapping[int, Value]) -> None:
        super().__init__()
        self.call, self.known = call, known

    def forward(self, *given: Value) -> Value:
        call = self.call
        # What joins sizes is read as numbers; what joins nothing but tensors is left as it is.
        numbers = call.kind != "Concat" or not all(isinstance(value, Tensor) for value in given)
        known = self.known if numbers else {}
        inputs = [known.get(place, value) for place, value in enumerate(given)]
        try:
            return RULES[call.kind](call, *inputs)
        except QPCError:
            raise
        except (
            RuntimeError,
            TypeError,
            ValueError,
            KeyError,
            IndexError,
            AttributeError,
            OverflowError,
            ZeroDivisionError,
        ) as e:
            first = (str(e).splitlines() or [type(e).__name__])[0]
            raise TraceError(f"{call.kind} at {call.name!r} cannot be computed: {first}") from e


def _constant(attributes: dict[str, Any]) -> Any:
    import numpy as np
    from onnx import numpy_helper

    ((kind, value),) = attributes.items()
    if kind == "value":
        return numpy_helper.to_array(value)
    types = {"value_float": "float32", "value_floats": "float32"}
    types |= {"value_int": "int64", "value_ints": "int64"}
    if kind not in types:
        raise ValueError(f"a Constant by {kind!r} is not read")
    return np.array(value, types[kind])
