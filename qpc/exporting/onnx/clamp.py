"""Clamps."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule


def _clamp(to: Exporter, node: Node) -> str:
    return to.clipped(node, to.value(node, "q"))


RULES: dict[object, Rule] = {
    qpc_ops.clamp.default: _clamp,
}
