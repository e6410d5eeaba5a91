"""Sums and means over axes."""

from __future__ import annotations

import math

import numpy as np
from torch.fx import Node

from qpc.calls import arguments, qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.floats.reduction import average
from qpc.ops.reduction import reduced_axes


def _sum(to: Exporter, node: Node) -> str:
    given = arguments(node)
    count = math.prod(
        to.size(given["q"], d) for d in reduced_axes(given["dims"], len(to.shape(given["q"])))
    )
    return scaled_average(to, node, _average(to, node), count)


def _mean(to: Exporter, node: Node) -> str:
    return to.clipped(node, _average(to, node))


def _average(to: Exporter, node: Node) -> str:
    given = arguments(node)
    rank, name = len(to.shape(given["q"])), to.value(node, "q")
    return average(to, name, rank, given["dims"], keepdim=given["keepdim"])


def scaled_average(to: Exporter, node: Node, name: str, count: int) -> str:
    """The result of an integer operator that sums `count` values, from their average.

    Its multiplier says what it divides the sum by: not the count, if it is a sum.
    """
    given, source = arguments(node), to.grid(arguments(node)["q"])
    factor = np.float32(given["multiplier"] * to.scale(node) / source.scale * count)
    if not math.isclose(factor, 1.0, rel_tol=1e-5):
        name = to.emit("Mul", [name, to.constant(factor)])
    return to.clipped(node, name)


RULES: dict[object, Rule] = {
    qpc_ops.sum.default: _sum,
    qpc_ops.sum_float.default: _sum,
    qpc_ops.mean.default: _mean,
    qpc_ops.mean_float.default: _mean,
}
