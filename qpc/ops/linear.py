"""Linear layers, in float and in integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from qpc.analysis.origins import computed
from qpc.calls import arguments, aten, qpc_ops
from qpc.channels.atoms import Labels, spread
from qpc.channels.flow import describe, pin_inputs
from qpc.errors import BackendError
from qpc.layers import IntWeighted, Weighted, integer_layer, outputs_first, weighted
from qpc.library import GRID, REALS, define, in_float
from qpc.quant.arithmetic import (
    real_values,
    requantize,
    require_bounds,
    require_multiplier,
)
from qpc.quant.exact_sums import exact_sums
from qpc.registry import OpSpec, Quantization, Role

if TYPE_CHECKING:
    from qpc.analysis.integer_proofs import IntegerProof
    from qpc.channels.flow import Flow
    from qpc.conversion import Conversion


class Linear(Weighted, of=aten.linear.default):
    """weight[out, in]; the input's last axis is `in`."""

    channel_axis = -1


def linear_sums(q: Tensor, weight: Tensor, bias: Tensor, input_zero_point: int) -> Tensor:
    """The int32 accumulators of `qpc::linear`."""
    return exact_sums(F.linear, q, weight, bias, input_zero_point, axis=-1)


def _linear(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    input_zero_point: int,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    acc = linear_sums(q, weight, bias, input_zero_point)
    return requantize(acc, multiplier, output_zero_point, lo, hi, q.dtype)


def fake_linear(q: Tensor, weight: Tensor, *_: Any) -> Tensor:
    """A tensor of the shape of a linear layer's result."""
    return q.new_empty((*q.shape[:-1], weight.shape[0]))


LINEAR_ARGUMENTS = "Tensor q, Tensor weight, Tensor bias, Tensor multiplier, int input_zero_point"
LINEAR = define(f"linear({LINEAR_ARGUMENTS}, {GRID}) -> Tensor", _linear, fake_linear)


def _linear_float(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    input_zero_point: int,
    least: float | None,
    greatest: float | None,
) -> Tensor:
    acc = linear_sums(q, weight, bias, input_zero_point)
    return real_values(acc, multiplier, least, greatest)


LINEAR_FLOAT = define(
    f"linear_float({LINEAR_ARGUMENTS}, {REALS}) -> Tensor", _linear_float, in_float(fake_linear)
)


class IntLinear(IntWeighted, of=(LINEAR, LINEAR_FLOAT)):
    """Integer linear layer."""

    channel_axis = -1


def refuse_layer(node: Node) -> str | None:
    """Why a layer with weights must stay in float; None if it can be an integer layer."""
    layer = weighted(node)
    assert layer is not None
    if layer.weight.op != "get_attr":
        return f"its weight {computed(layer.weight)}"
    if layer.bias is not None and layer.bias.op != "get_attr":
        return f"its bias {computed(layer.bias)}"
    if layer.input.op == "get_attr":
        return "its input is a parameter"
    return None


def _convert(conversion: Conversion) -> Node:
    layer = Linear(conversion.node)
    source = conversion.grid_of(layer.input)
    operands = [*conversion.layer(layer), source.zero_point]
    return conversion.ended((LINEAR, LINEAR_FLOAT), *operands)


def _join(conversion: Conversion, node: Node) -> Node:
    return conversion.joined(qpc_ops.linear_add.default, Linear(node))


# --- channels -------------------------------------------------------------------------------------


def _channels(flow: Flow, node: Node) -> Sequence[Labels]:
    """A linear layer mixes the last axis; channels on other axes pass."""
    view = Linear(node)
    outer, inner, rows = 0, 1, slice(None)
    if (found := flow.rows(view.weight)) is not None:
        weight, rows = found
        weight = view.weight if rows == slice(None) else weight  # with its grids, if it has any
    elif (transposed := flow.matrix(view.weight)) is not None:
        weight, (outer, inner) = transposed
    else:
        return [computed_weight(flow, node, view.weight)]
    incoming, others = flow.across(node, view.input, -1)
    flow.consume(weight, inner, incoming)
    outgoing = flow.produce(weight, outer)[rows]
    flow.attach(node, view.bias, 0, outgoing)
    return [spread(outgoing, -1, flow.shape(node)), *flow.passed(node, others)]


def computed_weight(flow: Flow, node: Node, weight: Node) -> Labels:
    """A layer without a weight of its own makes no channels, which is worth a word in itself."""
    flow.declined.setdefault(node, f"its weight {computed(weight)}")
    return pin_inputs(flow, node, f"{describe(node)} computes its weight")


# --- proofs ---------------------------------------------------------------------------------------


def check_layer(proof: IntegerProof, node: Node) -> None:
    """The real weights of a layer, and the range of what it reads, keep its sums in 32 bits."""
    layer = integer_layer(node)
    assert layer is not None
    weight, bias = proof.tensor(node, "weight", torch.int8), proof.tensor(node, "bias", torch.int32)
    weight = outputs_first(weight, layer.output_axis, layer.groups)
    multiplier = proof.tensor(node, "multiplier", torch.float32)
    if not weight.shape[0] == bias.numel() == multiplier.numel():
        raise BackendError(
            f"{weight.shape[0]} outputs, {bias.numel()} biases and {multiplier.numel()} multipliers"
        )
    require_multiplier(multiplier)
    require_bounds_of(node)
    proof.require_accumulator(layer.input, weight, bias, layer.input_zero_point)


def require_bounds_of(node: Node) -> None:
    """Raise BackendError for an operator that ends in float32 and whose bounds are none."""
    given = arguments(node)
    require_bounds(given.get("least"), given.get("greatest"))


_QUANTIZATION = Quantization(
    Role.COMPUTE, refuse_layer, _convert, ends_in_float=True, convert_joined=_join
)

SPECS = (
    OpSpec(
        aten.linear.default,
        quantization=_QUANTIZATION,
        view=Linear,
        channels_together=_channels,
    ),
    OpSpec(LINEAR, view=IntLinear, exact=True, ends_with_clamp=True, check=check_layer),
    OpSpec(LINEAR_FLOAT, view=IntLinear, exact=True, check=check_layer),
)
