"""Maxima and averages over windows and whole axes, of integers."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node

from qpc.calls import Pair, arguments, qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.floats.reduction import axes_of, reduced
from qpc.exporting.onnx.integers.arithmetic import centred, requantized
from qpc.ops.counted_pooling import count_multipliers, window_counts
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


def _counted_avg_pool2d(to: Exporter, node: Node) -> str:
    """`qpc::counted_avg_pool2d`: sums of the padded image, each times a factor of its own."""
    given, source = arguments(node), arguments(node)["q"]
    sizes = {k: Pair().decode(given[k]) for k in ("kernel_size", "stride", "padding")}
    kernel, stride, padding = sizes.values()
    modes = given["ceil_mode"], given["count_include_pad"]
    size, result = [to.size(source, axis) for axis in (2, 3)], [to.size(node, i) for i in (2, 3)]
    counts = window_counts(size, kernel, stride, padding, *modes)
    table = np.array(
        count_multipliers(kernel, given["input_scale"], given["output_scale"]), np.float32
    )
    after = [
        max((count - 1) * step + extent - length - pad, 0)
        for count, step, extent, length, pad in zip(
            result, stride, kernel, size, padding, strict=True
        )
    ]
    channels = to.size(source, 1)
    zero_point = np.array(given["input_zero_point"], dtype_name(to.type(source).dtype))
    ones = np.ones((channels, 1, *kernel), np.int8)
    total = to.emit(
        "ConvInteger",
        [to.value(node, "q"), to.constant(ones), to.constant(zero_point)],
        strides=stride,
        pads=[*padding, *after],
        group=channels,
    )
    total = cut(to, total, [0, 0], result)
    return requantized(to, node, total, to.constant(table[counts.numpy()]))


def cut(to: Exporter, name: str, start: list[int], size: list[int]) -> str:
    """Rows and columns of an image."""
    ends = [first + count for first, count in zip(start, size, strict=True)]
    return to.emit("Slice", [name, *map(to.integers, (start, ends, [2, 3]))])


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
    qpc_ops.counted_avg_pool2d.default: _counted_avg_pool2d,
    qpc_ops.avg_pool2d_float.default: _avg_pool2d,
    qpc_ops.sum.default: _sum,
    qpc_ops.sum_float.default: _sum,
    qpc_ops.mean.default: _mean,
    qpc_ops.mean_float.default: _mean,
}
