"""Convolutions of floats."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import arguments, aten
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.exporter import Exporter, Rule


def numbers(given: object, count: int) -> list[int]:
    """An argument of windows, by axis."""
    found = [given] if isinstance(given, int) else [int(v) for v in given]  # type: ignore[attr-defined]  # a list
    return found * count if len(found) == 1 else found


def _conv(axes: int, *, transposed: bool = False) -> Rule:
    def rule(to: Exporter, node: Node) -> str:
        given = arguments(node)
        if len(to.shape(node)) != axes + 2:
            raise UnsupportedOpError(f"no ONNX form for {node.target} without a batch", node=node)
        if isinstance(given["padding"], str):
            raise UnsupportedOpError(f"no ONNX form for {node.target} with a name", node=node)
        bias = [] if given["bias"] is None else [to.value(node, "bias")]
        window = {
            "strides": numbers(given["stride"], axes),
            "pads": numbers(given["padding"], axes) * 2,
            "dilations": numbers(given["dilation"], axes),
            "group": given["groups"],
        }
        if transposed:
            window["output_padding"] = numbers(given["output_padding"], axes)
        kind = "ConvTranspose" if transposed else "Conv"
        return to.emit(kind, [to.value(node, "input"), to.value(node, "weight"), *bias], **window)

    return rule


RULES: dict[object, Rule] = {
    aten.conv1d.default: _conv(1),
    aten.conv2d.default: _conv(2),
    aten.conv3d.default: _conv(3),
    aten.conv_transpose1d.default: _conv(1, transposed=True),
    aten.conv_transpose2d.input: _conv(2, transposed=True),
    aten.conv_transpose3d.input: _conv(3, transposed=True),
}
