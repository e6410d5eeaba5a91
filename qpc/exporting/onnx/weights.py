"""Weights and biases of integer layers: constants behind a DequantizeLinear, or floats."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from qpc.analysis.layer_scales import sum_scales, weight_scales
from qpc.errors import BackendError
from qpc.exporting.grids import TensorGrid
from qpc.exporting.onnx.exporter import Exporter
from qpc.exporting.onnx.rounding_nodes import dequantized
from qpc.layers import integer_layer, outputs_first, own_layout
from qpc.quant.fixedpoint import along, weight_limit

_INTEGERS = "integers."
"""How conversion calls the integer twin of a parameter."""


def weights_of(to: Exporter, node: Node) -> list[str]:
    """Names of the weight and the bias; their scales follow from the multiplier."""
    view = integer_layer(node)
    assert view is not None
    multiplier = to.tensor(node, "multiplier")
    accumulator, exact = sum_scales(node, multiplier), weight_scales(node, multiplier)
    if exact is None:
        raise BackendError("the grid of an integer value is not known", node=view.input)
    scales = exact.to(torch.float32)
    bias = to.tensor(node, "bias")
    name = str(view.bias.target).removeprefix(_INTEGERS)
    if to.form.float_biases:
        real = (bias.to(torch.float64) * accumulator).to(torch.float32)
        bias_name = to.constant(real.numpy(), name)
    else:
        bias_name = dequantized(to, bias, accumulator.to(torch.float32), 0, name)
    return [_weight(to, node, scales), bias_name]


def _weight(to: Exporter, node: Node, scales: Tensor) -> str:
    view = integer_layer(node)
    assert view is not None
    weight, axis, groups = to.tensor(node, "weight"), view.output_axis, view.groups
    name = str(view.weight.target).removeprefix(_INTEGERS)
    # Then an index of the axis stands for an output of each group, and has a scale for each.
    mixed = bool(axis) and groups > 1
    if to.form.rounds and not mixed:
        return dequantized(to, weight, scales, axis, name)
    by_output = outputs_first(weight, axis, groups).to(torch.float32)
    real = own_layout(by_output * along(scales, weight.dim(), 0), axis, groups)
    made = to.constant(real.numpy(), name)
    if not to.form.rounds and not mixed:
        limit = weight_limit(_bits(weight))
        ends = 0, -limit - 1, limit
        to.grids.append(TensorGrid(made, tuple(scales.tolist()), *ends, axis, parameter=True))
    return made


def _bits(weight: Tensor) -> int:
    """Of the usual widths, the least whose symmetric grid holds a weight."""
    most = int(weight.to(torch.int16).abs().max()) if weight.numel() else 0
    return next(bits for bits in (2, 4, 8) if most <= weight_limit(bits) or bits == 8)
