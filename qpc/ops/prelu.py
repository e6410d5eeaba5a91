"""Leaky rectifiers with learned slopes, in float and in integers.

With one slope for all it is a function of one value, and becomes a table. With a slope for each
channel it multiplies by one of two factors, as its sign says.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from qpc.analysis.origins import computed
from qpc.calls import Arg, OpView, arguments, aten
from qpc.channels.atoms import Labels, spread
from qpc.errors import BackendError
from qpc.library import GRID, define
from qpc.meta import info, update_info
from qpc.ops.pointwise import POINTWISE, is_one_number
from qpc.quant.arithmetic import requantize, require_multiplier
from qpc.registry import OpSpec, Quantization, Role

if TYPE_CHECKING:
    from qpc.analysis.integer_proofs import IntegerProof
    from qpc.channels.flow import Flow
    from qpc.conversion import Conversion


class Prelu(OpView, of=aten.prelu.default):
    """`max(x, 0) + slope * min(x, 0)`; one slope, or one for each channel, on axis 1."""

    input = Arg[Node]("self")
    slopes = Arg[Node]("weight")


def _prelu(
    q: Tensor,
    negative: Tensor,
    positive: float,
    input_zero_point: int,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    """negative: float32[channels], the factors of values below zero; positive: of all others."""
    centred = q.to(torch.int32) - input_zero_point
    factor = torch.where(centred < 0, negative[:, None, None], torch.tensor(positive))
    return requantize(centred, factor, output_zero_point, lo, hi, q.dtype)


def _fake_prelu(q: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(q)


PRELU = define(
    f"prelu(Tensor q, Tensor negative, float positive, int input_zero_point, {GRID}) -> Tensor",
    _prelu,
    _fake_prelu,
)


# --- quantization ---------------------------------------------------------------------------------


def _refuse(node: Node) -> str | None:
    view = Prelu(node)
    if view.slopes.op != "get_attr":
        return f"its weight {computed(view.slopes)}"
    shape = info(node).shape or ()
    if len(shape) < 2 or any(not isinstance(size, int) for size in shape[1:]):
        return "its value is no batch of channels"
    return None


def _convert(conversion: Conversion) -> Node:
    view, shape = Prelu(conversion.node), info(conversion.node).shape or ()
    source, x = conversion.grid_of(view.input), conversion.integers[view.input]
    positive = conversion.multiplier(source.scale)
    slopes = conversion.tensor(view.slopes).double()
    factors = (slopes * source.scale / conversion.grid.scale).float()
    name = conversion.editor.free_name(f"integers.{view.slopes.target}")
    if len(shape) != 4:
        pixels = prod(size for size in shape[2:] if isinstance(size, int))  # they all are
        x = conversion.reshaped(x, (*shape[:2], 1, pixels))
    operands = (x, conversion.constant(name, factors), positive)
    made = conversion.call(PRELU, *operands, source.zero_point, *conversion.ends)
    if len(shape) == 4:
        return made
    update_info(made, qparams=conversion.grid)
    return conversion.reshaped(made, shape)


_PER_CHANNEL = Quantization(Role.POINTWISE, _refuse, _convert)


def _quantization(node: Node) -> Quantization:
    return POINTWISE if is_one_number(Prelu(node).slopes) else _PER_CHANNEL


# --- channels -------------------------------------------------------------------------------------


def _channels(flow: Flow, node: Node) -> Sequence[Labels]:
    """One slope for each channel, or one for all."""
    given = arguments(node)
    if flow.shape(given["weight"]) == (1,):
        return flow.every(given["self"])
    line, others = flow.across(node, given["self"], 1)
    flow.attach(node, given["weight"], 0, line)
    return [spread(line, 1, flow.shape(node)), *flow.passed(node, others)]


# --- proofs ---------------------------------------------------------------------------------------


def _check(proof: IntegerProof, node: Node) -> None:
    """One difference of two bytes always fits; factors of values below zero may have any sign."""
    negative = proof.tensor(node, "negative", torch.float32)
    require_multiplier(negative.abs())
    require_multiplier(torch.tensor(float(arguments(node)["positive"])))
    channels = proof.type(arguments(node)["q"]).shape[1]
    if tuple(negative.shape) != (channels,):
        raise BackendError(f"{negative.numel()} factors for {channels} channels")


SPECS = (
    OpSpec(
        aten.prelu.default,
        quantization=_quantization,
        view=Prelu,
        channels_together=_channels,
    ),
    OpSpec(PRELU, exact=True, ends_with_clamp=True, check=_check),
)
