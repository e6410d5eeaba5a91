"""TensorRT's rules for models of explicit precision, as a checker of ONNX models.

From the support matrix and the importer of onnx-tensorrt, and the chapter on quantized networks of
the developer guide. TensorRT itself is not asked, so a silent checker is no proof that it builds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

_WEIGHTED = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "MatMul": 2}
"""Operators with weights, and how many of their inputs are to be quantized."""
_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1}
_ALLOWED = ("INT8", "FLOAT8E4M3FN", "INT4")
_MOVES = frozenset({"Transpose", "Reshape", "Identity", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class _Model:
    """What the rules ask of a model."""

    nodes: list[onnx.NodeProto]
    constants: Mapping[str, onnx.TensorProto]
    made_by: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, list[onnx.NodeProto]]
    outputs: frozenset[str]
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Model:
        graph = model.graph
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        return cls(
            list(graph.node),
            {tensor.name: tensor for tensor in graph.initializer},
            {name: node for node in graph.node for name in node.output},
            readers,
            frozenset(output.name for output in graph.output),
        )

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """A constant."""
        from onnx import numpy_helper

        if name not in self.constants:
            return None
        if name not in self.arrays:
            self.arrays[name] = numpy_helper.to_array(self.constants[name])
        return self.arrays[name]

    def dtype(self, name: str) -> str | None:
        """The type of a constant, or of what a QuantizeLinear makes."""
        from onnx import TensorProto

        maker = self.made_by.get(name)
        if maker is not None and maker.op_type == "QuantizeLinear":
            name = maker.input[2] if len(maker.input) > 2 else ""
        tensor = self.constants.get(name)
        return None if tensor is None else TensorProto.DataType.Name(tensor.data_type)

    def maker_of(self, name: str) -> onnx.NodeProto | None:
        """What makes a tensor, behind what only moves values."""
        maker = self.made_by.get(name)
        while maker is not None and maker.op_type in _MOVES:
            maker = self.made_by.get(maker.input[0])
        return maker

    def root(self, name: str) -> str:
        """The tensor that this one is a function of, through operators of one value each."""
        while (maker := self.made_by.get(name)) is not None and maker.op_type != "DequantizeLinear":
            computed = {n for n in maker.input if n and n not in self.constants}
            if len(computed) != 1:
                break
            (name,) = computed
        return name

    def is_quantized(self, name: str) -> bool:
        """Whether a tensor comes from a DequantizeLinear."""
        maker = self.maker_of(name)
        return maker is not None and maker.op_type == "DequantizeLinear"


_Rule = Callable[[_Model, "onnx.NodeProto"], Iterator[str]]


def tensorrt_problems(model: onnx.ModelProto) -> list[str]:
    """What TensorRT would not take, or would not fuse, in an ONNX model with Q/DQ nodes.

    One line for each violation, which begins with the node's name; none if the model keeps to the
    rules.
    """
    found = _Model.of(model)
    return [
        f"{node.name or node.op_type}: {problem}"
        for node in found.nodes
        for rule in _RULES.get(node.op_type, ())
        for problem in rule(found, node)
    ]


# --- rules of QuantizeLinear and DequantizeLinear -------------------------------------------------


def _types(model: _Model, node: onnx.NodeProto) -> Iterator[str]:
    """INT8, FP8 and INT4 alone: no uint8, no int32 biases."""
    name = node.input[0] if node.op_type == "DequantizeLinear" else node.output[0]
    dtype = model.dtype(name)
    if dtype not in _ALLOWED:
        yield f"integers of type {dtype}, not INT8, INT4 or FP8"


def _zero_points(model: _Model, node: onnx.NodeProto) -> Iterator[str]:
    """Symmetric quantization only."""
    if len(node.input) < 3:
        return
    zeros = model.array(node.input[2])
    if zeros is None:
        yield "a zero point that is computed"
    elif np.any(zeros.astype(np.int32) != 0):
        yield "a zero point that is not 0"


def _scales(model: _Model, node: onnx.NodeProto) -> Iterator[str]:
    """Constants above 0, as many as zero points."""
    scales = model.array(node.input[1])
    if scales is None:
        yield "a scale that is computed"
        return
    if not (np.isfinite(scales) & (scales > 0)).all():
        yield "a scale that is not above 0"
    zeros = model.array(node.input[2]) if len(node.input) > 2 else None
    if zeros is not None and zeros.size != scales.size:
        yield f"{scales.size} scales and {zeros.size} zero points"


def _axes(model: _Model, node: onnx.NodeProto) -> Iterator[str]:
    """Several scales for weights only, one for each index of the axis."""
    scales = model.array(node.input[1])
    if scales is None or scales.ndim == 0:
        return
    value = model.array(node.input[0])
    if value is None and (maker := model.made_by.get(node.input[0])) is not None:
        value = model.array(maker.input[0])
    if value is None:
        yield "several scales for a value that is computed"
        return
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if not -value.ndim <= axis < value.ndim or value.shape[axis] != scales.size:
        yield f"{scales.size} scales for axis {axis} of {list(value.shape)}"


def _pairs(model: _Model, node: onnx.NodeProto) -> Iterator[str]:
    """What a QuantizeLinear makes is read by DequantizeLinear alone."""
    others = [n.op_type for n in model.readers.get(node.output[0], [])]
    if node.output[0] in model.outputs:
        others.append("an output of the model")
    if wrong := sorted({kind for kind in others if kind != "DequantizeLinear"}):
        yield f"its integers are read by {', '.join(wrong)}, not by DequantizeLinear alone"


# --- rules of operators ---------------------------------------------------------------------------


def _inputs(model: _Model, node: onnx.NodeProto) -> Iterator[str]:
    """All of a weighted operator's inputs are quantized, or none."""
    names = list(node.input)[: _WEIGHTED[node.op_type]]
    known = [model.is_quantized(name) for name in names]
    if any(known) and not all(known):
        without = [name for name, is_known in zip(names, known, strict=True) if not is_known]
        yield f"input {', '.join(map(repr, without))} is not quantized, and another one is"


def _weight_axis(model: _Model, node: onnx.NodeProto) -> Iterator[str]:
    """Scales of weights run along the output channels."""
    maker = model.made_by.get(node.input[1])
    if maker is None or maker.op_type != "DequantizeLinear":
        return
    scales = model.array(maker.input[1])
    axis = next((a.i for a in maker.attribute if a.name == "axis"), 1)
    if scales is not None and scales.ndim and axis != _OUTPUT_AXIS[node.op_type]:
        yield f"scales along axis {axis} of its weight, not {_OUTPUT_AXIS[node.op_type]}"


def _biases(model: _Model, node: onnx.NodeProto) -> Iterator[str]:
    """Biases are floats."""
    if len(node.input) < 3 or not node.input[2]:
        return
    maker = model.made_by.get(node.input[2])
    if maker is not None and maker.op_type == "DequantizeLinear":
        yield "its bias is quantized"


def _one_scale(model: _Model, node: onnx.NodeProto) -> Iterator[str]:
    """A concatenation of integers has one scale for all of its inputs."""
    makers = [model.made_by.get(name) for name in node.input]
    known = [m for m in makers if m is not None and m.op_type == "DequantizeLinear"]
    if not known:
        return
    if len(known) < len(makers):
        yield "some of its inputs are quantized, and some are not"
        return
    scales = {float(s) for m in known if (s := model.array(m.input[1])) is not None and not s.ndim}
    if len(scales) > 1:
        yield f"its inputs have {len(scales)} scales"


def _both(model: _Model, node: onnx.NodeProto) -> Iterator[str]:
    """Both operands of a product are quantized, or none.

    A function of one value by itself, as SiLU is `x * sigmoid(x)`, is one operation of floats.
    """
    computed = [name for name in node.input if name not in model.constants]
    if len(computed) < 2:
        return
    known = [model.is_quantized(name) for name in computed]
    if any(known) and not all(known) and len({model.root(name) for name in computed}) > 1:
        yield "one of its operands is quantized, and the other is not"


_OF_BOTH: tuple[_Rule, ...] = (_types, _zero_points, _scales, _axes)
_OF_WEIGHTED: tuple[_Rule, ...] = (_inputs, _biases)
_RULES: Mapping[str, tuple[_Rule, ...]] = {
    "QuantizeLinear": (*_OF_BOTH, _pairs),
    "DequantizeLinear": _OF_BOTH,
    "Conv": (*_OF_WEIGHTED, _weight_axis),
    "ConvTranspose": (*_OF_WEIGHTED, _weight_axis),
    "Gemm": _OF_WEIGHTED,
    "MatMul": (_inputs,),
    "Concat": (_one_scale,),
    "Mul": (_both,),
}
