"""Maxima and averages over windows and whole axes, of integers."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node

from qpc.calls import Pair, arguments, qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.floats.reduction import axes_of, reduced
from qpc.exporting.onnx.integers.arithmetic import centred, requantized
from qpc.quant.arithmetic import average_multiplier
from qpc.types import dtype_name


def _max_pool2d(to: Exporter, node: Node) -> str:
    """`qpc::max_pool2d`."""
    given = arguments(node)
    pairs = {k: Pair().decode(given[k]) for k in ("kernel_size", "padding", "dilation", "stride")}
    return to.emit(
        "MaxPool",
        [to.value(node, "q")],
        kernel_shape=pairs["kernel_size"],
        strides=pairs["stride"],
        pads=pairs["padding"] * 2,
        dilations=pairs["dilation"],
        ceil_mode=int(given["ceil_mode"]),
    )


def _avg_pool2d(to: Exporter, node: Node) -> str:
    """`qpc::avg_pool2d`: sums are convolutions by ones, of each channel by itself."""
    given = arguments(node)
    channels, window = to.size(given["q"], 1), Pair().decode(given["kernel_size"])
    zero_point = np.array(given["input_zero_point"], dtype_name(to.type(given["q"]).dtype))
    ones = torch.ones((channels, 1, *window), dtype=torch.int8)
    total = to.emit(
        "ConvInteger",
        [to.value(node, "q"), to.constant(ones.numpy()), to.constant(zero_point)],
        strides=Pair().decode(given["stride"]),
        pads=Pair().decode(given["padding"]) * 2,
        group=channels,
    )
    return requantized(to, node, total, to.constant(np.float32(given["multiplier"])))


def _sum(to: Exporter, node: Node) -> str:
    """`qpc::sum`."""
    return _reduced(to, node, arguments(node)["multiplier"])


def _mean(to: Exporter, node: Node) -> str:
    """`qpc::mean`: the number of values is known."""
    given, count = arguments(node), 1
    for axis in axes_of(given["dims"], len(to.shape(given["q"]))):
        count *= to.size(given["q"], axis)
    factor = average_multiplier(given["input_scale"], given.get("output_scale", 1.0), count)
    return _reduced(to, node, factor)


def _reduced(to: Exporter, node: Node, multiplier: float) -> str:
    given = arguments(node)
    axes = axes_of(given["dims"], len(to.shape(given["q"])))
    values = centred(to, given["q"], given["input_zero_point"])
    total = reduced(to, "ReduceSum", values, axes, keepdim=given["keepdim"])
    return requantized(to, node, total, to.constant(np.float32(multiplier)))


RULES: dict[object, Rule] = {
    qpc_ops.max_pool2d.default: _max_pool2d,
    qpc_ops.avg_pool2d.default: _avg_pool2d,
    qpc_ops.avg_pool2d_float.default: _avg_pool2d,
    qpc_ops.sum.default: _sum,
    qpc_ops.sum_float.default: _sum,
    qpc_ops.mean.default: _mean,
    qpc_ops.mean_float.default: _mean,
}
