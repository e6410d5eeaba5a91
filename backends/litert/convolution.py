"""Convolutions; a padding by zeros in front becomes a part of them."""

from __future__ import annotations

from torch.fx import Node

from qpc.backends.litert.exporter import Exporter, Refused, Rule
from qpc.backends.litert.movement import cut_image
from qpc.backends.litert.padding import padded_image
from qpc.backends.litert.tables import Kind, Number, Padding, Quantization, Value, byte
from qpc.backends.litert.weights import bias_of, scales_of
from qpc.backends.litert.windows import Window
from qpc.calls import qpc_ops
from qpc.ops.integer_convolution import IntConv2d, IntConvTranspose2d
from qpc.ops.padding import zero_padding

_CONV, _DEPTHWISE, _TRANSPOSE = 1, 2, 49  # numbers of their options


def _conv2d(to: Exporter, node: Node) -> int:
    """`qpc::conv2d`; one filter for each channel is an operator of its own."""
    view = IntConv2d(node)
    source, (top, left) = view.input, view.padding
    pads = [top, left, top, left]
    if (extra := zero_padding(source)) is not None:
        source, pads = source.all_input_nodes[0], [a + b for a, b in zip(pads, extra, strict=True)]
    weight = to.tensor(node, "weight").numpy()
    _, channels, *size = to.shape(source)
    window = Window(weight.shape[2:], view.stride, view.dilation)
    kind = window.placed(size, to.shape(node)[2:], pads)
    index = to.operand(source)
    if kind is Padding.VALID:
        index = padded_image(to, index, pads)
    (down, right), (rows, columns) = view.stride, view.dilation
    fields: dict[int, Value] = {0: byte(kind), 1: Number(right), 2: Number(down)}
    factors = Number(columns, default=1), Number(rows, default=1)
    if view.groups > 1 and view.groups == channels:
        multiple = Number(len(weight) // channels)
        fields |= {3: multiple, 4: to.fused(node), 5: factors[0], 6: factors[1]}
        stored, axis = weight.transpose(1, 2, 3, 0), 3  # [1, kh, kw, out]
        operator, options = Kind.DEPTHWISE_CONV_2D, (_DEPTHWISE, fields)
    else:
        fields |= {3: to.fused(node), 4: factors[0], 5: factors[1]}
        stored, axis = weight.transpose(0, 2, 3, 1), 0  # [out, kh, kw, in / groups]
        operator, options = Kind.CONV_2D, (_CONV, fields)
    scales = scales_of(to, node).tolist()
    grid = Quantization(tuple(scales), (0,) * len(scales), axis)
    inputs = [index, to.constant(stored, grid, f"{node.name}.weight"), bias_of(to, node)]
    return to.clamped(node, to.emit(operator, inputs, to.result(node), options))


def _conv_transpose2d(to: Exporter, node: Node) -> int:
    """`qpc::conv_transpose2d`: all rows and columns that an input reaches, of which some are cut.

    Those behind the last that an input reaches hold the bias alone, here and there.
    """
    view = IntConvTranspose2d(node)
    if view.groups > 1 or tuple(view.dilation) != (1, 1):
        raise Refused("it has groups or a dilation")
    batch, channels, *size = to.shape(node)
    kernel = to.tensor(node, "weight").shape[2:]
    inner = to.shape(view.input)[2:]
    reached = [(n - 1) * s + k for n, s, k in zip(inner, view.stride, kernel, strict=True)]
    large = [max(r, n + p) for r, n, p in zip(reached, size, view.padding, strict=True)]
    weight = to.tensor(node, "weight").numpy().transpose(1, 2, 3, 0)  # [out, kh, kw, in]
    scales = scales_of(to, node).tolist()
    grid = Quantization(tuple(scales), (0,) * len(scales))
    shape = (batch, *large, channels)
    inputs = [
        to.row(shape),
        to.constant(weight, grid, f"{node.name}.weight"),
        to.operand(view.input),
        bias_of(to, node),
    ]
    down, right = view.stride
    fields: dict[int, Value] = {
        0: byte(Padding.VALID),
        1: Number(right),
        2: Number(down),
        3: to.fused(node),
    }
    name = to.name_of(node) if large == size else ""
    made = to.result(node, name=name, shape=shape)
    index = to.clamped(node, to.emit(Kind.TRANSPOSE_CONV, inputs, made, (_TRANSPOSE, fields)))
    return cut_image(to, index, view.padding, size)


RULES: dict[object, Rule] = {
    qpc_ops.conv2d.default: _conv2d,
    qpc_ops.conv_transpose2d.default: _conv_transpose2d,
}
