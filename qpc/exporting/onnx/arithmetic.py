"""Sums and products of two tensors."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import arguments, qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule


def _add(to: Exporter, node: Node) -> str:
    """A difference is a sum with a negative factor."""
    kind = "Sub" if arguments(node)["b_multiplier"] < 0 else "Add"
    return to.clipped(node, to.emit(kind, [to.value(node, "a"), to.value(node, "b")]))


def _mul(to: Exporter, node: Node) -> str:
    return to.clipped(node, to.emit("Mul", [to.value(node, "a"), to.value(node, "b")]))


RULES: dict[object, Rule] = {
    qpc_ops.add.default: _add,
    qpc_ops.add_float.default: _add,
    qpc_ops.mul.default: _mul,
    qpc_ops.mul_float.default: _mul,
}
