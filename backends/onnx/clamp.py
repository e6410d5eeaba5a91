"""Clamps."""

from __future__ import annotations

from torch.fx import Node

from qpc.backends.onnx.exporter import Exporter, Rule
from qpc.calls import aten, qpc_ops


def _clamp(to: Exporter, node: Node) -> str:
    return to.clipped(node, to.value(node, "q"))


def _float_relu(to: Exporter, node: Node) -> str:
    return to.emit("Relu", [to.value(node, "self")])


RULES: dict[object, Rule] = {
    qpc_ops.clamp.default: _clamp,
    aten.relu.default: _float_relu,
}
