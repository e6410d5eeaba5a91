"""Choices between values, and the comparisons that masks are made of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch._ops import OpOverload
from torch.fx import Node

from qpc.backends.litert.arithmetic import aligned
from qpc.backends.litert.exporter import Exporter, Refused, Rule
from qpc.backends.litert.stored import as_stored_point
from qpc.backends.litert.tables import Kind
from qpc.calls import arguments, aten


def chosen(to: Exporter, node: Node, mask: int, where_true: int, where_false: int) -> int:
    """One of two values of a type and grid, by a mask; all three broadcast."""
    rank = len(to.shape(node))
    inputs = [aligned(to, index, rank) for index in (mask, where_true, where_false)]
    return to.emit(Kind.SELECT_V2, inputs, to.shaped_as(node, where_false))


def _extreme(kind: Kind) -> Rule:
    """`aten.maximum` and `aten.minimum`, of integers on one grid or of floats."""

    def rule(to: Exporter, node: Node) -> int:
        rank, given = len(to.shape(node)), [to.value(node, name) for name in ("self", "other")]
        inputs = [aligned(to, index, rank) for index in given]
        return to.emit(kind, inputs, to.shaped_as(node, given[0]))

    return rule


def _where(to: Exporter, node: Node) -> int:
    """`aten.where`."""
    mask = to.operand(arguments(node)["condition"])
    return chosen(to, node, mask, to.value(node, "self"), to.value(node, "other"))


def _masked_fill(to: Exporter, node: Node) -> int:
    """`aten.masked_fill`: of integers, with a point of their grid."""
    given, index = arguments(node), to.value(node, "self")
    if to.is_integer(node):
        point = as_stored_point(given["value"], to.shape_and_dtype(node).dtype)
        fill = to.constant(np.array(point, np.int8), to.stored(index).grid)
    else:
        fill = to.number(float(given["value"]))
    return chosen(to, node, to.operand(given["mask"]), fill, index)


def _compared(kind: Kind) -> Rule:
    """A comparison of floats, or of floats with a number."""

    def rule(to: Exporter, node: Node) -> int:
        given, rank = arguments(node), len(to.shape(node))
        other = given["other"]
        sides = [to.value(node, "self")]
        sides.append(to.value(node, "other") if isinstance(other, Node) else to.number(other))
        if any(to.stored(index).dtype != "float32" for index in sides):
            raise Refused("it compares what is no float")
        inputs = [aligned(to, index, rank) for index in sides]
        return to.emit(kind, inputs, to.result(node, dtype="bool"))

    return rule


def _of_masks(kind: Kind) -> Rule:
    """What makes a mask of one or two masks."""

    def rule(to: Exporter, node: Node) -> int:
        rank, inputs = len(to.shape(node)), [to.operand(n) for n in node.all_input_nodes]
        if any(to.stored(index).dtype != "bool" for index in inputs):
            raise Refused("it works on what is no mask")
        masks = [aligned(to, index, rank) for index in inputs]
        return to.emit(kind, masks, to.result(node, dtype="bool"))

    return rule


_COMPARISONS: Mapping[Kind, tuple[OpOverload, OpOverload]] = {
    Kind.EQUAL: (aten.eq.Scalar, aten.eq.Tensor),
    Kind.NOT_EQUAL: (aten.ne.Scalar, aten.ne.Tensor),
    Kind.GREATER: (aten.gt.Scalar, aten.gt.Tensor),
    Kind.GREATER_EQUAL: (aten.ge.Scalar, aten.ge.Tensor),
    Kind.LESS: (aten.lt.Scalar, aten.lt.Tensor),
    Kind.LESS_EQUAL: (aten.le.Scalar, aten.le.Tensor),
}

RULES: dict[object, Rule] = {
    aten.maximum.default: _extreme(Kind.MAXIMUM),
    aten.minimum.default: _extreme(Kind.MINIMUM),
    aten.where.self: _where,
    aten.masked_fill.Scalar: _masked_fill,
    aten.logical_and.default: _of_masks(Kind.LOGICAL_AND),
    aten.logical_or.default: _of_masks(Kind.LOGICAL_OR),
    aten.logical_not.default: _of_masks(Kind.LOGICAL_NOT),
    **{target: _compared(kind) for kind, both in _COMPARISONS.items() for target in both},
}
