"""Sums and means over axes."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from torch.fx import Node

from qpc.backends.litert.exporter import Exporter, Rule
from qpc.backends.litert.movement import without_axes
from qpc.backends.litert.stored import stored_axis
from qpc.backends.litert.tables import Kind, Quantization, byte, flag
from qpc.calls import arguments, aten, qpc_ops
from qpc.ops.reduction import Mean, reduced_axes

_MUL, _REDUCER = 21, 27  # numbers of their options


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


RULES: dict[object, Rule] = {
    qpc_ops.sum.default: _sum,
    qpc_ops.mean.default: _mean,
    aten.mean.dim: _float_mean,
}
