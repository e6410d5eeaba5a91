"""Convolutions of floats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from qpc.calls import arguments, aten
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.exporter import Exporter, Rule


def numbers(given: object, count: int) -> list[int]:
    """An argument of windows, by axis."""
    found = [given] if isinstance(given, int) else [int(v) for v in given]  # type: ignore[attr-defined]  # a list
    return found * count if len(found) == 1 else found


def ends_of_outputs(
    node: Node, strides: Sequence[int], pads: Sequence[int], extra: Sequence[int]
) -> dict[str, list[int]]:
    """Attributes of a ConvTranspose that has `extra` outputs at the ends of its axes.

    Runtimes allow fewer than the stride, PyTorch also fewer than the dilation; the others are cut
    off less.
    """
    moved = [e if e >= s else 0 for e, s in zip(extra, strides, strict=True)]
    before, after = list(pads[: len(extra)]), list(pads[len(extra) :])
    after = [a - m for a, m in zip(after, moved, strict=True)]
    if min(after) < 0:
        raise UnsupportedOpError(
            "no ONNX form for a transposed convolution with so much output_padding", node=node
        )
    left = [e - m for e, m in zip(extra, moved, strict=True)]
    return {"pads": [*before, *after], "output_padding": left}


def _conv(axes: int, *, transposed: bool = False) -> Rule:
    def rule(to: Exporter, node: Node) -> str:
        given = arguments(node)
        if len(to.shape(node)) != axes + 2:
            raise UnsupportedOpError(f"no ONNX form for {node.target} without a batch", node=node)
        if isinstance(given["padding"], str):
            raise UnsupportedOpError(f"no ONNX form for {node.target} with a name", node=node)
        bias = [] if given["bias"] is None else [to.value(node, "bias")]
        window: dict[str, Any] = {
            "strides": numbers(given["stride"], axes),
            "pads": numbers(given["padding"], axes) * 2,
            "dilations": numbers(given["dilation"], axes),
            "group": given["groups"],
        }
        if transposed:
            extra = numbers(given["output_padding"], axes)
            window |= ends_of_outputs(node, window["strides"], window["pads"], extra)
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
