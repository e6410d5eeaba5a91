"""From floats to integers, and back: the exporter rounds every integer value by itself."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule


def _quantize(to: Exporter, node: Node) -> str:
    return to.value(node, "x")


def _dequantize(to: Exporter, node: Node) -> str:
    return to.value(node, "q")


RULES: dict[object, Rule] = {
    qpc_ops.quantize.default: _quantize,
    qpc_ops.dequantize.default: _dequantize,
}
