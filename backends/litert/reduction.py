"""Sums and means over axes."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from torch.fx import Node

from qpc.backends.litert.exporter import Exporter, Refused, Rule
from qpc.backends.litert.movement import without_axes
from qpc.backends.litert.stored import stored_axis
from qpc.backends.litert.tables import Kind, Quantization, TypeCode, Value, byte, flag
from qpc.calls import arguments, aten, qpc_ops
from qpc.ops.reduction import Mean, reduced_axes

_MUL, _REDUCER, _ARG = 21, 27, 40  # numbers of their options


def averaged(
    to: Exporter, index: int, axes: Collection[int], rank: int, grid: Quantization | None
) -> int:
    """The mean over logical axes, which stay with size 1; grid: of the result."""
    stored = sorted(stored_axis(axis, rank) for axis in axes)
    shape = [1 if i in stored else size for i, size in enumerate(to.stored(index).shape)]
    made, options = to.like(index, shape, grid=grid), (_REDUCER, {0: flag(True)})
    return to.emit(Kind.MEAN, [index, to.row(stored)], made, options)


def _mean(to: Exporter, node: Node) -> int:
    """`qpc::mean`."""
    given = arguments(node)
    axes = reduced_axes(given["dims"], len(to.shape(given["q"])))
    return _without(to, node, to.bounded(node, _averaged(to, node, axes, 1.0)), axes)


def _sum(to: Exporter, node: Node) -> int:
    """`qpc::sum`: its multiplier says what the sum is divided by, often the number of values.

    Else the average is rounded on a grid finer by a factor, and multiplied by that factor, which
    changes no integer: the kernels for sums part in what they compute.
    """
    given, source, after = arguments(node), to.grid(arguments(node)["q"]), to.grid(node)
    shape = to.shape(given["q"])
    axes = reduced_axes(given["dims"], len(shape))
    count = math.prod(shape[axis] for axis in axes)
    factor = given["multiplier"] * after.scale / source.scale * count
    if math.isclose(factor, 1.0, rel_tol=1e-5):
        factor = 1.0
    index = _averaged(to, node, axes, factor)
    if factor != 1.0:
        one = Quantization((float(np.float32(factor)),), (0,))  # on which 1 is the factor
        constant = to.constant(np.ones((), np.int8), one)
        made = to.like(index, to.stored(index).shape, grid=to.result(node).grid)
        index = to.emit(Kind.MUL, [index, constant], made, (_MUL, {0: byte(0)}))
    return _without(to, node, to.bounded(node, index), axes)


def _averaged(to: Exporter, node: Node, axes: Collection[int], factor: float) -> int:
    """The average of a call's input on the grid of its result, made finer by a factor."""
    grid = to.result(node).grid
    assert grid is not None
    scale = float(np.float32(grid.scales[0] / factor))
    fine = Quantization((scale,), grid.zero_points)
    rank = len(to.shape(arguments(node)["q"]))
    return averaged(to, to.value(node, "q"), axes, rank, fine)


def _without(to: Exporter, node: Node, index: int, axes: Collection[int]) -> int:
    given = arguments(node)
    rank = len(to.shape(given["q"]))
    return index if given["keepdim"] else without_axes(to, index, axes, rank)


def _float_mean(to: Exporter, node: Node) -> int:
    """`aten.mean.dim`."""
    view = Mean(node)
    rank = len(to.shape(view.input))
    axes = [axis % rank for axis in view.dims] or list(range(rank))
    index = averaged(to, to.operand(view.input), axes, rank, None)
    return index if view.keepdim else without_axes(to, index, axes, rank)


def _extreme(kind: Kind) -> Rule:
    """`aten.amax` and `aten.amin`, of integers and of floats."""

    def rule(to: Exporter, node: Node) -> int:
        given, index = arguments(node), to.value(node, "self")
        rank = len(to.shape(given["self"]))
        axes = sorted({axis % rank for axis in given["dim"]}) or range(rank)
        stored = sorted(stored_axis(axis, rank) for axis in axes)
        shape = [1 if i in stored else size for i, size in enumerate(to.stored(index).shape)]
        made, options = to.like(index, shape), (_REDUCER, {0: flag(True)})
        index = to.emit(kind, [index, to.row(stored)], made, options)
        return index if given["keepdim"] else without_axes(to, index, axes, rank)

    return rule


def _place_of_extreme(kind: Kind) -> Rule:
    """`aten.argmax` and `aten.argmin` along one axis."""

    def rule(to: Exporter, node: Node) -> int:
        given, index = arguments(node), to.value(node, "self")
        rank = len(to.shape(given["self"]))
        if given["dim"] is None:
            raise Refused("it is over all axes at once")
        axis = stored_axis(given["dim"], rank)
        of = to.stored(index).shape
        made = to.like(index, [*of[:axis], *of[axis + 1 :]], dtype="int64", grid=None)
        fields: dict[int, Value] = {0: byte(TypeCode.INT64)}
        index = to.emit(kind, [index, to.constant(np.array(axis, np.int32))], made, (_ARG, fields))
        index = to.reshape(index, [*of[:axis], 1, *of[axis + 1 :]])
        axes = [given["dim"] % rank]
        return index if given["keepdim"] else without_axes(to, index, axes, rank)

    return rule


RULES: dict[object, Rule] = {
    qpc_ops.sum.default: _sum,
    qpc_ops.mean.default: _mean,
    aten.mean.dim: _float_mean,
    aten.amax.default: _extreme(Kind.REDUCE_MAX),
    aten.amin.default: _extreme(Kind.REDUCE_MIN),
    aten.argmax.default: _place_of_extreme(Kind.ARG_MAX),
    aten.argmin.default: _place_of_extreme(Kind.ARG_MIN),
}
