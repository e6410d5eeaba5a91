"""Pooling."""

from __future__ import annotations

import math

from torch.fx import Node

from qpc.calls import Pair, arguments, qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.reduction import scaled_average


def _avg_pool2d(to: Exporter, node: Node) -> str:
    window = {k: Pair().decode(arguments(node)[k]) for k in ("kernel_size", "padding")}
    stride = arguments(node)["stride"] or window["kernel_size"]
    made = to.emit(
        "AveragePool",
        [to.value(node, "q")],
        kernel_shape=window["kernel_size"],
        strides=Pair().decode(stride),
        pads=window["padding"] * 2,
        count_include_pad=1,
    )
    return scaled_average(to, node, made, math.prod(window["kernel_size"]))


def _counted_avg_pool2d(to: Exporter, node: Node) -> str:
    given = arguments(node)
    window = {k: Pair().decode(given[k]) for k in ("kernel_size", "stride", "padding")}
    made = to.emit(
        "AveragePool",
        [to.value(node, "q")],
        kernel_shape=window["kernel_size"],
        strides=window["stride"],
        pads=window["padding"] * 2,
        ceil_mode=int(given["ceil_mode"]),
        count_include_pad=int(given["count_include_pad"]),
    )
    return to.clipped(node, made)


def _max_pool2d(to: Exporter, node: Node) -> str:
    """`qpc::max_pool2d`."""
    given = arguments(node)
    pairs = {k: Pair().decode(given[k]) for k in ("kernel_size", "padding", "dilation")}
    return to.emit(
        "MaxPool",
        [to.value(node, "q")],
        kernel_shape=pairs["kernel_size"],
        strides=Pair().decode(given["stride"] or pairs["kernel_size"]),
        pads=pairs["padding"] * 2,
        dilations=pairs["dilation"],
        ceil_mode=int(given["ceil_mode"]),
    )


RULES: dict[object, Rule] = {
    qpc_ops.avg_pool2d.default: _avg_pool2d,
    qpc_ops.counted_avg_pool2d.default: _counted_avg_pool2d,
    qpc_ops.avg_pool2d_float.default: _avg_pool2d,
    qpc_ops.max_pool2d.default: _max_pool2d,
}
