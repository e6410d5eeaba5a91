"""Convolutions and matrix products of integers."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.fx import Node

from qpc.calls import arguments, qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.integers.arithmetic import joined, requantized
from qpc.layers import IntWeighted, integer_layer, outputs_first
from qpc.ops.integer_convolution import IntConv2d, IntConvTranspose2d
from qpc.ops.layer_sums import Conv2dAdd, ConvTranspose2dAdd
from qpc.types import dtype_name


def _constant(to: Exporter, node: Node, argument: str, tensor: Tensor | None = None) -> str:
    """A tensor of a layer under its own name; another form of it if one is given."""
    value = to.tensor(node, argument) if tensor is None else tensor
    source = arguments(node)[argument]
    return to.constant(value.contiguous().numpy(), str(source.target))


def _finished(to: Exporter, node: Node, accumulator: str, *axes: int) -> str:
    """Bias and requantization; `axes`: of size 1 behind that of the channels."""
    bias, multiplier = (
        _constant(to, node, name, to.tensor(node, name).reshape(-1, *axes))
        for name in ("bias", "multiplier")
    )
    ended = joined if "other" in arguments(node) else requantized
    return ended(to, node, to.emit("Add", [accumulator, bias]), multiplier)


def _zero_point(to: Exporter, view: IntWeighted) -> str:
    dtype = dtype_name(to.type(view.input).dtype)
    return to.constant(np.array(view.input_zero_point, dtype))


def _conv2d(to: Exporter, node: Node) -> str:
    """`qpc::conv2d`."""
    view = IntConv2d.of(node) or Conv2dAdd(node)
    made = to.emit(
        "ConvInteger",
        [to.of(view.input), _constant(to, node, "weight"), _zero_point(to, view)],
        strides=view.stride,
        pads=view.padding * 2,
        dilations=view.dilation,
        group=view.groups,
    )
    return _finished(to, node, made, 1, 1)


def _conv_transpose2d(to: Exporter, node: Node) -> str:
    """`qpc::conv_transpose2d`: a convolution, by the turned kernel, of the input spread out.

    ONNX has no transposed convolution of integers.
    """
    view = IntConvTranspose2d.of(node) or ConvTranspose2dAdd(node)
    weight = outputs_first(to.tensor(node, "weight"), 1, view.groups).flip(2, 3)
    spread = _spread_out(to, view)
    before = [
        d * (k - 1) - p
        for d, k, p in zip(view.dilation, weight.shape[2:], view.padding, strict=True)
    ]
    after = [a + e for a, e in zip(before, view.output_padding, strict=True)]
    if any(size < 0 for size in (*before, *after)):
        cut = [0, 0, *(min(s, 0) for s in before), 0, 0, *(min(s, 0) for s in after)]
        spread = to.emit("Pad", [spread, to.integers(cut), _zero_point(to, view)])
    made = to.emit(
        "ConvInteger",
        [spread, _constant(to, node, "weight", weight), _zero_point(to, view)],
        strides=[1, 1],
        pads=[max(size, 0) for size in (*before, *after)],
        dilations=view.dilation,
        group=view.groups,
    )
    return _finished(to, node, made, 1, 1)


def _spread_out(to: Exporter, view: IntConvTranspose2d) -> str:
    """The input with zero points between its rows and between its columns."""
    name, (down, across) = to.of(view.input), view.stride
    if (down, across) == (1, 1):
        return name
    batch, channels, height, width = to.shape(view.input)
    assert isinstance(height, int)
    assert isinstance(width, int)
    name = to.reshaped(name, (batch, channels, height, 1, width, 1))
    pads = to.integers([0] * 9 + [down - 1, 0, across - 1])
    name = to.emit("Pad", [name, pads, _zero_point(to, view)])
    name = to.reshaped(name, (batch, channels, height * down, width * across))
    last = [(height - 1) * down + 1, (width - 1) * across + 1]
    return to.emit("Slice", [name, *map(to.integers, ([0, 0], last, [2, 3], [1, 1]))])


def _linear(to: Exporter, node: Node) -> str:
    """`qpc::linear`."""
    view = integer_layer(node)
    assert view is not None
    weight = _constant(to, node, "weight", to.tensor(node, "weight").t())
    made = to.emit("MatMulInteger", [to.of(view.input), weight, _zero_point(to, view)])
    return _finished(to, node, made)


RULES: dict[object, Rule] = {
    qpc_ops.conv2d.default: _conv2d,
    qpc_ops.conv2d_float.default: _conv2d,
    qpc_ops.conv2d_add.default: _conv2d,
    qpc_ops.conv_transpose2d.default: _conv_transpose2d,
    qpc_ops.conv_transpose2d_float.default: _conv_transpose2d,
    qpc_ops.conv_transpose2d_add.default: _conv_transpose2d,
    qpc_ops.linear.default: _linear,
    qpc_ops.linear_float.default: _linear,
    qpc_ops.linear_add.default: _linear,
}
