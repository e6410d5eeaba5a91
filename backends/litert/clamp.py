"""Clamps."""

from __future__ import annotations

from torch.fx import Node

from qpc.backends.litert.exporter import Exporter, Rule
from qpc.backends.litert.tables import Kind
from qpc.calls import arguments, aten, qpc_ops


def _clamp(to: Exporter, node: Node) -> int:
    """`qpc::clamp`."""
    return to.bounded(node, to.value(node, "q"))


def _float_relu(to: Exporter, node: Node) -> int:
    """`aten.relu`."""
    return to.emit(Kind.RELU, [to.value(node, "self")], to.result(node))


def _float_clamp(to: Exporter, node: Node) -> int:
    """`aten.clamp`."""
    given, index = arguments(node), to.value(node, "self")
    for end, kind in (("min", Kind.MAXIMUM), ("max", Kind.MINIMUM)):
        if given[end] is not None:
            bound = to.number(float(given[end]))
            index = to.emit(kind, [index, bound], to.like(index, to.stored(index).shape))
    return index


RULES: dict[object, Rule] = {
    qpc_ops.clamp.default: _clamp,
    aten.relu.default: _float_relu,
    aten.clamp.default: _float_clamp,
}
