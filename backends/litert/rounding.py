"""From floats to integers, and back."""

from __future__ import annotations

from torch.fx import Node

from qpc.backends.litert.exporter import Exporter, Rule
from qpc.backends.litert.tables import Kind
from qpc.calls import qpc_ops


def _quantize(to: Exporter, node: Node) -> int:
    """`qpc::quantize`; an input that is int8 is rounded already."""
    source = to.value(node, "x")
    if to.stored(source).dtype == "int8":
        return source
    return to.bounded(node, to.emit(Kind.QUANTIZE, [source], to.result(node)))


def _dequantize(to: Exporter, node: Node) -> int:
    """`qpc::dequantize`; not for readers outside, if these take int8."""
    source = to.value(node, "q")
    if to.integers and all(user.op == "output" for user in node.users):
        return source
    return to.emit(Kind.DEQUANTIZE, [source], to.result(node))


RULES: dict[object, Rule] = {
    qpc_ops.quantize.default: _quantize,
    qpc_ops.dequantize.default: _dequantize,
}
