"""Scales of weights, and biases of integer layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from qpc.backends.litert.exporter import Exporter, Refused
from qpc.backends.litert.tables import Quantization
from qpc.layers import IntWeighted, integer_layer

_LEAST = -127  # of int8 weights, as TensorFlow Lite's quantization specification has them


def scales_of(to: Exporter, node: Node) -> Tensor:
    """float32[out]: the scales of a layer's weights, which follow from its multipliers.

    Weights of -128, which imported layers may have, are not in the format.
    """
    if int(to.tensor(node, "weight").min()) < _LEAST:
        raise Refused(f"it has weights below {_LEAST}")
    return (_accumulator(to, node) / to.grid(_layer(node).input).scale).to(torch.float32)


def bias_of(to: Exporter, node: Node) -> int:
    """The tensor of a layer's bias, on the grid of its sums."""
    scales = _accumulator(to, node).to(torch.float32).tolist()
    bias = to.tensor(node, "bias").numpy()
    grid = Quantization(tuple(scales), (0,) * len(scales))
    return to.constant(bias, grid, f"{node.name}.bias")


def _accumulator(to: Exporter, node: Node) -> Tensor:
    """float64[out]: products of the scale of the input and those of the weights."""
    return to.tensor(node, "multiplier").to(torch.float64) * to.grid(node).scale


def _layer(node: Node) -> IntWeighted:
    view = integer_layer(node)
    assert view is not None
    return view
