"""Convolutions; a padding by zeros in front becomes a part of them."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.floats.convolution import ends_of_outputs
from qpc.exporting.onnx.weights import weights_of
from qpc.ops.integer_convolution import IntConv2d, IntConvTranspose2d
from qpc.ops.padding import zero_padding


def _conv2d(to: Exporter, node: Node) -> str:
    """`qpc::conv2d`."""
    view = IntConv2d(node)
    source, (top, left) = view.input, view.padding
    pads = [top, left, top, left]
    if (extra := zero_padding(source)) is not None:
        source, pads = source.all_input_nodes[0], [a + b for a, b in zip(pads, extra, strict=True)]
    made = to.emit(
        "Conv",
        [to.of(source), *weights_of(to, node)],
        strides=view.stride,
        pads=pads,
        dilations=view.dilation,
        group=view.groups,
    )
    return to.clipped(node, made)


def _conv_transpose2d(to: Exporter, node: Node) -> str:
    """`qpc::conv_transpose2d`."""
    view = IntConvTranspose2d(node)
    made = to.emit(
        "ConvTranspose",
        [to.of(view.input), *weights_of(to, node)],
        strides=view.stride,
        **ends_of_outputs(node, view.stride, view.padding * 2, view.output_padding),
        dilations=view.dilation,
        group=view.groups,
    )
    return to.clipped(node, made)


RULES: dict[object, Rule] = {
    qpc_ops.conv2d.default: _conv2d,
    qpc_ops.conv2d_float.default: _conv2d,
    qpc_ops.conv_transpose2d.default: _conv_transpose2d,
    qpc_ops.conv_transpose2d_float.default: _conv_transpose2d,
}
