"""Sums, differences, products and quotients of two tensors, of integers and of floats."""

from __future__ import annotations

from torch.fx import Node

from qpc.backends.litert.exporter import Exporter, Refused, Rule
from qpc.backends.litert.stored import stored_axes
from qpc.backends.litert.tables import Kind, Number, byte
from qpc.calls import arguments, aten, qpc_ops

_OPTIONS = {Kind.ADD: 11, Kind.MUL: 21, Kind.SUB: 28, Kind.DIV: 29}
"""Numbers of their options, whose first field is the activation."""


def combined(to: Exporter, node: Node, kind: Kind, operands: list[int], fused: Number) -> int:
    """A call of an operator that broadcasts, whose result is that of `node`."""
    rank = len(to.shape(node))
    inputs = [aligned(to, index, rank) for index in operands]
    return to.emit(kind, inputs, to.result(node), (_OPTIONS[kind], {0: fused}))


def aligned(to: Exporter, index: int, rank: int) -> int:
    """A tensor with as many axes, new ones in front as broadcasting has them."""
    shape = to.stored(index).shape
    if len(shape) == rank:
        return index
    logical = [shape[stored_axes(len(shape)).index(i)] for i in range(len(shape))]
    longer = [1] * (rank - len(logical)) + logical
    return to.as_stored(to.reshape(to.logical(index), longer))


def _add(to: Exporter, node: Node) -> int:
    """`qpc::add`; a difference is a sum with a negative factor."""
    kind = Kind.SUB if arguments(node)["b_multiplier"] < 0 else Kind.ADD
    operands = [to.value(node, "a"), to.value(node, "b")]
    return to.clamped(node, combined(to, node, kind, operands, to.fused(node)))


def _mul(to: Exporter, node: Node) -> int:
    """`qpc::mul`."""
    operands = [to.value(node, "a"), to.value(node, "b")]
    return to.clamped(node, combined(to, node, Kind.MUL, operands, to.fused(node)))


def _float(kind: Kind) -> Rule:
    def rule(to: Exporter, node: Node) -> int:
        given = arguments(node)
        if given.get("alpha", 1) != 1:
            raise Refused("alpha is not 1")
        operands = [_float_operand(to, given[name]) for name in ("self", "other")]
        if any(to.stored(index).dtype != "float32" for index in operands):
            raise Refused("its operands are not both floats")
        return combined(to, node, kind, operands, byte(0))

    return rule


def _float_operand(to: Exporter, operand: object) -> int:
    if isinstance(operand, Node):
        return to.operand(operand)
    return to.number(float(operand))  # type: ignore[arg-type]  # a Python number


RULES: dict[object, Rule] = {
    qpc_ops.add.default: _add,
    qpc_ops.mul.default: _mul,
    aten.add.Tensor: _float(Kind.ADD),
    aten.sub.Tensor: _float(Kind.SUB),
    aten.mul.Tensor: _float(Kind.MUL),
    aten.div.Tensor: _float(Kind.DIV),
}
