"""Sums and means over axes."""

from __future__ import annotations

import math

import numpy as np
from torch.fx import Node

from qpc.backends.onnx.exporter import Exporter, Rule
from qpc.calls import arguments, aten, qpc_ops
from qpc.ops.reduction import Mean, reduced_axes


def _sum(to: Exporter, node: Node) -> str:
    made, count = _reduced(to, node)
    return scaled_average(to, node, made, count)


def _mean(to: Exporter, node: Node) -> str:
    made, _ = _reduced(to, node)
    return to.clipped(node, made)


def _reduced(to: Exporter, node: Node) -> tuple[str, int]:
    """The average over the axes of a call, and the number of values in it."""
    given = arguments(node)
    shape = to.shape(given["q"])
    made = _average(to, to.value(node, "q"), shape, given["dims"], given["keepdim"])
    return made, math.prod(shape[d] for d in reduced_axes(given["dims"], len(shape)))


def _extreme(kind: str) -> Rule:
    """`aten.amax` or `aten.amin`."""

    def rule(to: Exporter, node: Node) -> str:
        given, rank = arguments(node), len(to.shape(arguments(node)["self"]))
        axes, keep = sorted(reduced_axes(given["dim"], rank)), int(given["keepdim"])
        return to.emit(kind, [to.value(node, "self")], axes=axes, keepdims=keep)

    return rule


def scaled_average(to: Exporter, node: Node, average: str, count: int) -> str:
    """The result of an integer operator that sums `count` values, from their average.

    Its multiplier says what it divides the sum by: not the count, if it is a sum.
    """
    given, source = arguments(node), to.grid(arguments(node)["q"])
    factor = np.float32(given["multiplier"] * to.scale(node) / source.scale * count)
    if not math.isclose(factor, 1.0, rel_tol=1e-5):
        average = to.emit("Mul", [average, to.constant(factor)])
    return to.clipped(node, average)


def _average(
    to: Exporter, name: str, shape: tuple[int, ...], dims: list[int] | None, keepdim: bool
) -> str:
    axes = sorted(d % len(shape) for d in dims or range(len(shape)))
    if axes == [2, 3] and len(shape) == 4 and keepdim:
        return to.emit("GlobalAveragePool", [name])
    return to.emit("ReduceMean", [name], axes=axes, keepdims=int(keepdim))


def _float_mean(to: Exporter, node: Node) -> str:
    view = Mean(node)
    return _average(
        to, to.names[view.input], to.shape(view.input), list(view.dims) or None, view.keepdim
    )


RULES: dict[object, Rule] = {
    aten.amax.default: _extreme("ReduceMax"),
    aten.amin.default: _extreme("ReduceMin"),
    qpc_ops.sum.default: _sum,
    qpc_ops.sum_float.default: _sum,
    qpc_ops.mean.default: _mean,
    qpc_ops.mean_float.default: _mean,
    aten.mean.dim: _float_mean,
}
