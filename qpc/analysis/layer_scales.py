"""What the integers of layers stand for: the scales of their weights and of their sums."""

from __future__ import annotations

from torch import Tensor
from torch.fx import Node

from qpc.layers import integer_layer
from qpc.meta import info


def sum_scales(node: Node, multiplier: Tensor) -> Tensor:
    """float64[out]: what a step of an integer layer's sums stands for.

    That is the product of the scales of its input and its weights, which follows from the
    multiplier and the grid of its results; those of a layer without one are floats.
    """
    result = info(node).qparams
    return multiplier.double().flatten() * (1.0 if result is None else result.scale)


def weight_scales(node: Node, multiplier: Tensor) -> Tensor | None:
    """float64[out]: the scales of an integer layer's weights; None if its input has no grid."""
    view = integer_layer(node)
    source = None if view is None else info(view.input).qparams
    return None if source is None else sum_scales(node, multiplier) / source.scale
