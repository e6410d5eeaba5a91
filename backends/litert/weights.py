"""Scales of weights, and biases of integer layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from qpc.analysis.layer_scales import sum_scales, weight_scales
from qpc.backends.litert.exporter import Exporter, Refused
from qpc.backends.litert.tables import Quantization

_LEAST = -127  # of int8 weights, as TensorFlow Lite's quantization specification has them


def scales_of(to: Exporter, node: Node) -> Tensor:
    """float32[out]: the scales of a layer's weights, which follow from its multipliers.

    Weights of -128, which imported layers may have, are not in the format.
    """
    if int(to.tensor(node, "weight").min()) < _LEAST:
        raise Refused(f"it has weights below {_LEAST}")
    scales = weight_scales(node, to.tensor(node, "multiplier"))
    assert scales is not None, "layers of the format have values on grids"
    return scales.to(torch.float32)


def bias_of(to: Exporter, node: Node) -> int:
    """The tensor of a layer's bias, on the grid of its sums."""
    scales = sum_scales(node, to.tensor(node, "multiplier")).to(torch.float32).tolist()
    bias = to.tensor(node, "bias").numpy()
    grid = Quantization(tuple(scales), (0,) * len(scales))
    return to.constant(bias, grid, f"{node.name}.bias")
