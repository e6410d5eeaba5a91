"""The ONNX form of layers with weights; a padding by zeros in front becomes a part of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from qpc.backends.onnx.exporter import Exporter
from qpc.layers import integer_layer, outputs_first, own_layout
from qpc.ops.convolution import IntConv2d, IntConvTranspose2d
from qpc.ops.linear import IntLinear
from qpc.ops.padding import Pad


def conv2d(to: Exporter, node: Node) -> str:
    """`qpc::conv2d`."""
    view = IntConv2d(node)
    source, (top, left) = view.input, view.padding
    pads = [top, left, top, left]
    if (extra := zero_padding(to, source)) is not None:
        source, pads = source.all_input_nodes[0], [a + b for a, b in zip(pads, extra, strict=True)]
    made = to.emit(
        "Conv",
        [to.names[source], *_weights(to, node)],
        strides=view.stride,
        pads=pads,
        dilations=view.dilation,
        group=view.groups,
    )
    return to.clipped(node, made)


def zero_padding(to: Exporter, node: Node) -> list[int] | None:
    """What a padding by zeros of height and width alone adds: top, left, bottom, right."""
    pad = Pad.of(node)
    if pad is None or len(pad.pad) > 4 or pad.value != to.grid(node).zero_point:
        return None
    left, right, top, bottom = (*pad.pad, 0, 0)[:4]
    return [top, left, bottom, right] if min(left, right, top, bottom) >= 0 else None


def conv_transpose2d(to: Exporter, node: Node) -> str:
    """`qpc::conv_transpose2d`."""
    view = IntConvTranspose2d(node)
    made = to.emit(
        "ConvTranspose",
        [to.names[view.input], *_weights(to, node)],
        strides=view.stride,
        pads=view.padding * 2,
        output_padding=view.output_padding,
        dilations=view.dilation,
        group=view.groups,
    )
    return to.clipped(node, made)


def linear(to: Exporter, node: Node) -> str:
    """`qpc::linear`."""
    source = IntLinear(node).input
    rank = len(to.shape(source))
    name, shape = to.names[source], to.shape(node)
    if rank != 2:  # Gemm takes matrices
        name = to.emit("Reshape", [name, to.integers((-1, to.shape(source)[-1]))])
    made = to.emit("Gemm", [name, *_weights(to, node)], transB=1)
    if rank != 2:
        made = to.emit("Reshape", [made, to.integers(shape)])
    return to.clipped(node, made)


def _weights(to: Exporter, node: Node) -> list[str]:
    """Names of the weight and the bias; their scales follow from the multiplier."""
    view = integer_layer(node)
    assert view is not None
    multiplier = to.tensor(node, "multiplier").to(torch.float64)
    accumulator = multiplier * to.grid(node).scale  # the product of input scale and weight scale
    scales = (accumulator / to.grid(view.input).scale).to(torch.float32)
    weight, bias = to.tensor(node, "weight"), to.tensor(node, "bias")
    groups = view.groups
    if view.output_axis and groups > 1:
        # An index of the axis stands for an output of each group, and has a scale for each.
        name = to.constant(_real(weight, scales, view.output_axis, groups).numpy())
    else:
        name = to.dequantized(weight, scales, view.output_axis)
    return [name, to.dequantized(bias, accumulator.to(torch.float32))]


def _real(weight: Tensor, scales: Tensor, output_axis: int, groups: int) -> Tensor:
    by_output = outputs_first(weight, output_axis, groups).to(torch.float32)
    real = by_output * scales.reshape(-1, *[1] * (weight.dim() - 1))
    return own_layout(real, output_axis, groups)
