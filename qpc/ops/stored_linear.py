"""Linear layers with integer weights whose values are floats: weight-only, and dynamic ranges."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from qpc.calls import Arg
from qpc.channels.atoms import Labels
from qpc.channels.flow import describe, pin_inputs
from qpc.errors import BackendError, OverflowProofError, PassError
from qpc.layers import Layer
from qpc.library import LIBRARY, define
from qpc.quant.arithmetic import wrap_int32
from qpc.quant.fixedpoint import INT32_MAX
from qpc.quant.grid import LARGEST_SCALE
from qpc.quant.row_grids import HIGHEST, RowGrids
from qpc.quant.stored_weights import require_stored, stored_integers
from qpc.registry import OpSpec, Quantization, Role

if TYPE_CHECKING:
    from qpc.analysis.integer_proofs import IntegerProof
    from qpc.channels.cost import Products, Sizes
    from qpc.channels.flow import Flow


def _groups(weight: Tensor, scale: Tensor, bias: Tensor | None, inputs: int, group: int) -> None:
    """Raise PassError unless these are the weights of one layer in groups of this size."""
    require_stored(weight, scale, bias, inputs)
    if group < 1 or scale.dim() != 2 or scale.shape[1] != max(ceil(inputs / group), 1):
        raise PassError(
            f"{inputs} inputs in groups of {group} do not have scales {list(scale.shape)}"
        )


def _require_float(x: Tensor) -> None:
    if x.dtype is not torch.float32 or x.dim() == 0:
        raise PassError(f"the layer takes float32[..., in], got {x.dtype} {list(x.shape)}")


def dequantized(weight: Tensor, scale: Tensor, inputs: int, group: int) -> Tensor:
    """The float32[out, inputs] that stored weights stand for: `float32(q) * scale`."""
    scales = scale.repeat_interleave(group, dim=1)[:, :inputs]
    return stored_integers(weight, inputs).to(torch.float32) * scales


def _weight_only(
    input: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, group: int
) -> Tensor:
    _require_float(input)
    inputs = input.shape[-1]
    _groups(weight, scale, bias, inputs, group)
    return F.linear(input, dequantized(weight, scale, inputs, group), bias)


def _fake_weight_only(
    input: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, group: int
) -> Tensor:
    _require_float(input)
    _groups(weight, scale, bias, input.shape[-1], group)
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


WEIGHT_ONLY = define(
    "weight_only_linear(Tensor input, Tensor weight, Tensor scale, Tensor? bias, int group)"
    " -> Tensor",
    _weight_only,
    _fake_weight_only,
)


def _require_dynamic(input: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
    _require_float(input)
    require_stored(weight, scale, bias, input.shape[-1])
    if weight.dtype is not torch.int8 or scale.dim() != 1:
        raise PassError("a layer with dynamic ranges has int8[out, in] and float32[out] scales")


def _dynamic(input: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    _require_dynamic(input, weight, scale, bias)
    rows = input.reshape(input.shape[:-1].numel(), input.shape[-1])
    grids = RowGrids.of(rows)
    exact = F.linear(grids.centred(rows).to(torch.float64), weight.to(torch.float64))
    result = wrap_int32(exact).to(torch.float32) * scale * grids.real_scale()
    if bias is not None:
        result = result + bias
    return result.reshape(*input.shape[:-1], weight.shape[0])


def _fake_dynamic(input: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    _require_dynamic(input, weight, scale, bias)
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


DYNAMIC = define(
    "dynamic_linear(Tensor input, Tensor weight, Tensor scale, Tensor? bias) -> Tensor",
    _dynamic,
    _fake_dynamic,
)


# --- gradients ------------------------------------------------------------------------------------


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, scale, bias, *group = inputs
    ctx.save_for_backward(weight, scale)
    ctx.inputs, ctx.has_bias, ctx.group = x.shape[-1], bias is not None, group


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Those of the layer with its weights as they are; rows pass straight through their rounding.

    Weights and scales have none.
    """
    weight, scale = ctx.saved_tensors
    group = ctx.group[0] if ctx.group else max(ctx.inputs, 1)
    scales = scale if ctx.group else scale[:, None]
    at_input = gradient @ dequantized(weight, scales, ctx.inputs, group)
    at_bias = gradient.flatten(0, -2).sum(0) if gradient.dim() > 1 else gradient
    return at_input, None, None, at_bias if ctx.has_bias else None, *(None for _ in ctx.group)


for _name in ("weight_only_linear", "dynamic_linear"):
    torch.library.register_autograd(f"qpc::{_name}", _gradients, setup_context=_keep, lib=LIBRARY)


class StoredLinear(Layer, of=(WEIGHT_ONLY, DYNAMIC)):
    """Either of the two layers; the input's last axis is `in`."""

    input = Arg[Node]()
    scale = Arg[Node]()
    bias = Arg[Node | None]()
    channel_axis = -1


# --- what is known of both ------------------------------------------------------------------------


def _refuse(node: Node) -> str:
    return "its weights are integers already, and its values stay float"


def _channels(flow: Flow, node: Node) -> Labels:
    """A barrier: what it reads is counted in grids, and its weights may be packed."""
    return pin_inputs(flow, node, f"{describe(node)} has integer weights; prune before quantizing")


def _macs(sizes: Sizes, node: Node) -> Products:
    view = StoredLinear(node)
    return [[*sizes.value(node), sizes.value(view.input)[-1]]]


# --- proofs ---------------------------------------------------------------------------------------


def _check_layer(proof: IntegerProof, node: Node) -> Tensor:
    """Its weight, if what it is made of are constants of the right types."""
    view = StoredLinear(node)
    scale = proof.tensor(node, "scale", torch.float32)
    if not bool(((scale >= 0) & (scale <= LARGEST_SCALE)).all()):
        raise BackendError("a scale of its weights is negative, NaN or above 2**119")
    if view.bias is not None:
        proof.tensor(node, "bias", torch.float32)
    return proof.tensor(node, "weight", proof.type(view.weight).dtype)


def _check_weight_only(proof: IntegerProof, node: Node) -> None:
    _check_layer(proof, node)


def _check_dynamic(proof: IntegerProof, node: Node) -> None:
    require_row_sums(_check_layer(proof, node))


def require_row_sums(weight: Tensor) -> None:
    """Raise OverflowProofError if sums of int8[out, in] with rows might not fit 32 bits.

    Whatever the zero point of a row, an integer is at most 255 from it.
    """
    worst = HIGHEST * int(weight.to(torch.int64).abs().sum(1).max()) if weight.numel() else 0
    if worst > INT32_MAX:
        raise OverflowProofError(f"its accumulator can reach {worst}, which does not fit 32 bits")


_STORED = Quantization(Role.STORED, _refuse)

SPECS = (
    OpSpec(
        WEIGHT_ONLY,
        name="linear",
        quantization=_STORED,
        view=StoredLinear,
        channels=_channels,
        macs=_macs,
        check=_check_weight_only,
    ),
    OpSpec(
        DYNAMIC,
        name="linear",
        quantization=_STORED,
        view=StoredLinear,
        exact=True,
        channels=_channels,
        macs=_macs,
        check=_check_dynamic,
    ),
)
