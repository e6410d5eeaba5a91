"""Sums and products of two tensors."""

from __future__ import annotations

from torch.fx import Node

from qpc.backends.onnx.exporter import Exporter, Rule, real_of
from qpc.calls import arguments, aten, qpc_ops


def _add(to: Exporter, node: Node) -> str:
    """A difference is a sum with a negative factor."""
    kind = "Sub" if arguments(node)["b_multiplier"] < 0 else "Add"
    return to.clipped(node, to.emit(kind, [to.value(node, "a"), to.value(node, "b")]))


def _mul(to: Exporter, node: Node) -> str:
    return to.clipped(node, to.emit("Mul", [to.value(node, "a"), to.value(node, "b")]))


def _of_two(kind: str) -> Rule:
    """The larger or smaller value, which one of the grids has."""
    return lambda to, node: to.emit(kind, [to.value(node, "self"), to.value(node, "other")])


def _choice(to: Exporter, node: Node) -> str:
    """`aten.where` by a constant mask."""
    mask = to.constant(to.tensor(node, "condition").numpy())
    return to.emit("Where", [mask, to.value(node, "self"), to.value(node, "other")])


def _fill(to: Exporter, node: Node) -> str:
    """`aten.masked_fill` of integers by a constant mask."""
    mask = to.constant(to.tensor(node, "mask").numpy())
    number = real_of(to.grid(node), arguments(node)["value"])
    return to.emit("Where", [mask, to.constant(number), to.value(node, "self")])


RULES: dict[object, Rule] = {
    qpc_ops.add.default: _add,
    qpc_ops.add_float.default: _add,
    qpc_ops.mul.default: _mul,
    aten.maximum.default: _of_two("Max"),
    aten.minimum.default: _of_two("Min"),
    aten.where.self: _choice,
    aten.masked_fill.Scalar: _fill,
    qpc_ops.mul_float.default: _mul,
}
