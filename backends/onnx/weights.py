"""Weights and biases of integer layers, as constants behind a DequantizeLinear."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from qpc.backends.onnx.exporter import Exporter
from qpc.layers import integer_layer, outputs_first, own_layout


def weights_of(to: Exporter, node: Node) -> list[str]:
    """Names of the weight and the bias; their scales follow from the multiplier."""
    view = integer_layer(node)
    assert view is not None
    multiplier = to.tensor(node, "multiplier").to(torch.float64)
    accumulator = multiplier * to.scale(node)  # the product of input scale and weight scale
    scales = (accumulator / to.grid(view.input).scale).to(torch.float32)
    weight, bias = to.tensor(node, "weight"), to.tensor(node, "bias")
    groups = view.groups
    if view.output_axis and groups > 1:
        # An index of the axis stands for an output of each group, and has a scale for each.
        name = to.constant(_real(weight, scales, view.output_axis, groups).numpy())
    else:
        name = to.dequantized(weight, scales, view.output_axis)
    return [name, to.dequantized(bias, accumulator.to(torch.float32))]


def _real(weight: Tensor, scales: Tensor, output_axis: int, groups: int) -> Tensor:
    by_output = outputs_first(weight, output_axis, groups).to(torch.float32)
    real = by_output * scales.reshape(-1, *[1] * (weight.dim() - 1))
    return own_layout(real, output_axis, groups)
