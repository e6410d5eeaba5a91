"""Pooling of floats."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import arguments, aten
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.floats.convolution import numbers
from qpc.exporting.onnx.floats.functions import number


def _windows(node: Node, axes: int) -> dict[str, object]:
    given = arguments(node)
    return {
        "kernel_shape": numbers(given["kernel_size"], axes),
        "strides": numbers(given["stride"] or given["kernel_size"], axes),
        "pads": numbers(given["padding"], axes) * 2,
        "ceil_mode": int(given["ceil_mode"]),
    }


def _max_pool(axes: int) -> Rule:
    def rule(to: Exporter, node: Node) -> str:
        source = node.all_input_nodes[0]
        _require_batch(to, node, axes)
        dilations = numbers(arguments(node)["dilation"], axes)
        return to.emit("MaxPool", [to.of(source)], **_windows(node, axes), dilations=dilations)

    return rule


def _average_pool(axes: int) -> Rule:
    def rule(to: Exporter, node: Node) -> str:
        given, windows = arguments(node), _windows(node, axes)
        _require_batch(to, node, axes)
        padded = given["count_include_pad"] and any(numbers(given["padding"], axes))
        if given["ceil_mode"] and padded:
            raise UnsupportedOpError("no ONNX form for means with ceil_mode", node=node)
        count = int(given["count_include_pad"])
        made = to.emit("AveragePool", [to.value(node, "self")], **windows, count_include_pad=count)
        divisor = given.get("divisor_override")
        if not divisor:
            return made
        size = 1
        for extent in numbers(given["kernel_size"], axes):
            size *= extent
        return to.emit("Mul", [made, number(to, size / divisor)])

    return rule


def _adaptive_average(axes: int) -> Rule:
    """`aten.adaptive_avg_pool` where it is a mean, or one of equal windows."""

    def rule(to: Exporter, node: Node) -> str:
        _require_batch(to, node, axes)
        source = node.all_input_nodes[0]
        wanted = numbers(arguments(node)["output_size"], axes)
        if all(size == 1 for size in wanted):
            return to.emit("GlobalAveragePool", [to.of(source)])
        sizes = [to.size(source, axis) for axis in range(2, axes + 2)]
        if any(size % parts for size, parts in zip(sizes, wanted, strict=True)):
            raise UnsupportedOpError(f"no ONNX form for this {node.target}", node=node)
        window = [size // parts for size, parts in zip(sizes, wanted, strict=True)]
        return to.emit("AveragePool", [to.of(source)], kernel_shape=window, strides=window)

    return rule


def _require_batch(to: Exporter, node: Node, axes: int) -> None:
    if len(to.shape(node.all_input_nodes[0])) != axes + 2:
        raise UnsupportedOpError(f"no ONNX form for {node.target} without a batch", node=node)


RULES: dict[object, Rule] = {
    aten.max_pool1d.default: _max_pool(1),
    aten.max_pool2d.default: _max_pool(2),
    aten.max_pool3d.default: _max_pool(3),
    aten.avg_pool1d.default: _average_pool(1),
    aten.avg_pool2d.default: _average_pool(2),
    aten.avg_pool3d.default: _average_pool(3),
    aten.adaptive_avg_pool1d.default: _adaptive_average(1),
    aten.adaptive_avg_pool2d.default: _adaptive_average(2),
    aten._adaptive_avg_pool2d.default: _adaptive_average(2),
}
