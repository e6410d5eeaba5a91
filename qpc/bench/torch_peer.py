"""The network in float32 PyTorch: an ONNX model in QDQ form without its roundings.

PyTorch's own int8 needs the network traced in a way of its own, so it is not among the peers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from qpc.errors import UnsupportedOpError

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]
_Values = dict[str, Tensor]


class FloatModel:
    """Runs the nodes one after the other; constants are computed once, images are channels-last."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx import helper, numpy_helper

        graph = model.graph
        self._inputs = [i.name for i in graph.input]
        self._outputs = [o.name for o in graph.output]
        self.constants: _Values = {
            i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer
        }
        self._made_by: dict[str, onnx.NodeProto] = {}
        self._steps: list[tuple[str, Callable[..., Tensor], list[str]]] = []
        for node in graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            self._add(node, attributes)

    def __call__(self, *inputs: Array) -> list[Array]:
        values = dict(self.constants)
        with torch.inference_mode():
            for name, array in zip(self._inputs, inputs, strict=True):
                values[name] = _channels_last(torch.from_numpy(array))
            for name, run, arguments in self._steps:
                values[name] = run(*(values.get(a) for a in arguments))
        return [values[name].numpy() for name in self._outputs]

    def _add(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        rule = _RULES.get(node.op_type)
        if rule is None:
            raise UnsupportedOpError(f"no PyTorch form for the ONNX operator {node.op_type}")
        (output,) = node.output
        arguments, before = list(node.input), self._made_by.get(node.input[0])
        if node.op_type == "QuantizeLinear":
            attributes["clamps"] = before is None or before.op_type not in _MOVES
        if node.op_type == "Clip" and before is not None and before.op_type == "QuantizeLinear":
            rule, arguments = _clip_points, [*arguments, *before.input[1:]]
        if node.op_type == "Cast" and before is not None:  # of integers, as indices of a table
            arguments = list(before.input)
        self._made_by[output] = node
        run = partial(rule, **attributes)
        if all(name in self.constants for name in arguments if name):
            made = run(*(self.constants.get(name) for name in arguments))
            self.constants[output] = _channels_last(made)
        else:
            self._steps.append((output, run, arguments))


_MOVES = (
    *("MaxPool", "Reshape", "Transpose", "Slice", "Gather", "Concat", "DepthToSpace", "Resize"),
    "DequantizeLinear",
)
"""What keeps values within the grids of its inputs."""


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _quantize(x: Tensor, scale: Tensor, zero_point: Tensor, *, clamps: bool) -> Tensor:
    """Rounding is what float does without; clamping is a ReLU where zero is an end of the grid."""
    if not clamps or int(zero_point) not in _ends(zero_point):
        return x
    lo, hi = ((end - int(zero_point)) * float(scale) for end in _ends(zero_point))
    return x.clamp(lo, hi)


def _ends(zero_point: Tensor) -> tuple[int, int]:
    limits = torch.iinfo(zero_point.dtype)
    return limits.min, limits.max


def _cast(x: Tensor, scale: Tensor, zero_point: Tensor, to: int) -> Tensor:
    """The integers of a QuantizeLinear, which leaves values as they are."""
    return ((x / scale).round() + zero_point).clamp(*_ends(zero_point)).to(torch.int32)


def _clip_points(x: Tensor, lo: Tensor, hi: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """The ends of a grid that is stored in more bits than it has, as real numbers."""
    low, high = ((int(end) - int(zero_point)) * float(scale) for end in (lo, hi))
    return x.clamp(low, high)


def _dequantize(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int = 1) -> Tensor:
    if x.is_floating_point():
        return x
    shape = [1] * x.dim()
    if scale.dim():
        shape[axis] = -1
    return (x.to(torch.float32) - zero_point.reshape(shape)) * scale.reshape(shape)


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    strides: list[int],
    pads: list[int],
    dilations: list[int],
    group: int,
) -> Tensor:
    top, left, bottom, right = pads
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.conv2d(x, weight, bias, strides, (top, left), dilations, group)


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    strides: list[int],
    pads: list[int],
    output_padding: list[int],
    dilations: list[int],
    group: int,
) -> Tensor:
    top, left, bottom, right = pads
    extra = [output_padding[0] + top - bottom, output_padding[1] + left - right]
    return F.conv_transpose2d(x, weight, bias, strides, (top, left), extra, group, dilations)


def _max_pool(
    x: Tensor,
    kernel_shape: list[int],
    strides: list[int],
    pads: list[int],
    dilations: list[int],
    ceil_mode: int,
) -> Tensor:
    made: Tensor = F.max_pool2d(x, kernel_shape, strides, pads[:2], dilations, bool(ceil_mode))
    return made


def _average_pool(
    x: Tensor, kernel_shape: list[int], strides: list[int], pads: list[int], count_include_pad: int
) -> Tensor:
    return F.avg_pool2d(
        x, kernel_shape, strides, pads[:2], count_include_pad=bool(count_include_pad)
    )


def _slice(x: Tensor, start: Tensor, end: Tensor, axis: Tensor, step: Tensor) -> Tensor:
    if int(step) < 0:
        return x.flip(int(axis))
    index = [slice(None)] * x.dim()
    index[int(axis)] = slice(int(start), int(end), int(step))
    return x[tuple(index)]


def _gather(x: Tensor, index: Tensor, axis: int) -> Tensor:
    index = index.to(torch.int64) % x.shape[axis]
    taken = x.index_select(axis, index.flatten())
    return taken.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _resize(
    x: Tensor,
    _region: None,
    _scales: None,
    sizes: Tensor,
    mode: bytes,
    coordinate_transformation_mode: bytes,
    nearest_mode: bytes = b"",
) -> Tensor:
    size = sizes.tolist()[2:]
    if mode == b"nearest":
        return F.interpolate(x, size, mode="nearest")
    aligned = coordinate_transformation_mode == b"align_corners"
    return F.interpolate(x, size, mode="bilinear", align_corners=aligned)


def _pad(x: Tensor, pads: Tensor, value: Tensor) -> Tensor:
    before, after = pads.reshape(2, -1).tolist()
    flat = [v for pair in zip(reversed(before), reversed(after), strict=True) for v in pair]
    return F.pad(x, flat, value=float(value))


def _batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> Tensor:
    return F.batch_norm(x, mean, variance, weight, bias, eps=epsilon)


_RULES: Mapping[str, Callable[..., Tensor]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Cast": _cast,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": lambda x, weight, bias, transB: F.linear(x, weight, bias),  # noqa: N803
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
    "Relu": F.relu,
    "Clip": lambda x, lo=None, hi=None: torch.clamp(x, lo, hi),
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "ReduceMean": lambda x, axes, keepdims: x.mean(axes, keepdim=bool(keepdims)),
    "Concat": lambda *tensors, axis: torch.cat(tensors, axis),
    "Reshape": lambda x, shape: x.reshape(shape.tolist()),
    "Transpose": lambda x, perm: x.permute(perm),
    "Slice": _slice,
    "Gather": _gather,
    "Resize": _resize,
    "DepthToSpace": lambda x, blocksize, mode: F.pixel_shuffle(x, blocksize),
    "Pad": _pad,
    "BatchNormalization": _batch_norm,
    "HardSwish": F.hardswish,
    "HardSigmoid": lambda x, alpha, beta: F.hardsigmoid(x),
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Erf": torch.erf,
    "LeakyRelu": lambda x, alpha: F.leaky_relu(x, alpha),
    "Elu": F.elu,
    "Softplus": F.softplus,
    "Softmax": lambda x, axis: torch.softmax(x, axis),
    "Exp": torch.exp,
    "Abs": torch.abs,
    "Neg": torch.neg,
}
