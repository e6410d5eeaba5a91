"""Linear layers, in float and in integers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qpc.calls import aten
from qpc.layers import IntWeighted, Weighted
from qpc.library import GRID, define
from qpc.quant.arithmetic import requantize, wrap_int32
from qpc.registry import OpSpec, Role


class Linear(Weighted, of=aten.linear.default):
    """weight[out, in]; the input's last axis is `in`."""

    channel_axis = -1


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
    centred = q.to(torch.float64) - input_zero_point
    acc = wrap_int32(F.linear(centred, weight.to(torch.float64)) + bias.to(torch.float64))
    return requantize(acc, multiplier, output_zero_point, lo, hi, q.dtype)


def _fake_linear(q: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return q.new_empty((*q.shape[:-1], weight.shape[0]))


LINEAR = define(
    "linear(Tensor q, Tensor weight, Tensor bias, Tensor multiplier, int input_zero_point,"
    f" {GRID}) -> Tensor",
    _linear,
    _fake_linear,
)


class IntLinear(IntWeighted, of=LINEAR):
    """Integer linear layer."""

    channel_axis = -1


SPECS = (
    OpSpec(aten.linear.default, "linear", Role.COMPUTE, Linear, converts=True),
    OpSpec(LINEAR, "linear", view=IntLinear, ends_with_clamp=True),
)
