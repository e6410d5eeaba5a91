"""Convolutions, in float and in integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qpc.calls import One, Pair, aten
from qpc.layers import IntWeighted, Weighted
from qpc.library import GRID, define
from qpc.quant.arithmetic import requantize, wrap_int32
from qpc.registry import OpSpec, Role, specs_of_views


class Conv1d(Weighted, of=aten.conv1d.default):
    """weight[out, in/groups, k]."""

    stride = One()
    padding = One()
    dilation = One()


class Conv2d(Weighted, of=aten.conv2d.default):
    """weight[out, in/groups, kh, kw]."""

    stride = Pair()
    padding = Pair()
    dilation = Pair()


class Conv3d(Weighted, of=aten.conv3d.default):
    """weight[out, in/groups, kd, kh, kw]."""


class ConvTranspose1d(Weighted, of=aten.conv_transpose1d.default):
    """weight[in, out/groups, k]."""

    output_axis = 1
    transposed = True


class ConvTranspose2d(Weighted, of=aten.conv_transpose2d.input):
    """weight[in, out/groups, kh, kw]."""

    stride = Pair()
    padding = Pair()
    output_padding = Pair()
    dilation = Pair()
    output_axis = 1
    transposed = True


class ConvTranspose3d(Weighted, of=aten.conv_transpose3d.input):
    """weight[in, out/groups, kd, kh, kw]."""

    output_axis = 1
    transposed = True


def _conv2d(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    input_zero_point: int,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    centred = q.to(torch.float64) - input_zero_point  # so that padding contributes zero
    total = F.conv2d(
        centred,
        weight.to(torch.float64),
        None,
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
    )
    acc = wrap_int32(total + bias.to(torch.float64)[:, None, None])
    return requantize(acc, multiplier[:, None, None], output_zero_point, lo, hi, q.dtype)


def _fake_conv2d(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *_: Any,
) -> Tensor:
    sizes = [
        (q.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i]
        + 1
        for i in (0, 1)
    ]
    return q.new_empty((q.shape[0], weight.shape[0], *sizes))


CONV2D = define(
    "conv2d(Tensor q, Tensor weight, Tensor bias, Tensor multiplier, int[2] stride,"
    f" int[2] padding, int[2] dilation, int groups, int input_zero_point, {GRID}) -> Tensor",
    _conv2d,
    _fake_conv2d,
)


def _conv_transpose2d(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    input_zero_point: int,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    centred = q.to(torch.float64) - input_zero_point
    total = F.conv_transpose2d(
        centred,
        weight.to(torch.float64),
        None,
        tuple(stride),
        tuple(padding),
        tuple(output_padding),
        groups,
        tuple(dilation),
    )
    acc = wrap_int32(total + bias.to(torch.float64)[:, None, None])
    return requantize(acc, multiplier[:, None, None], output_zero_point, lo, hi, q.dtype)


def _fake_conv_transpose2d(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    *_: Any,
) -> Tensor:
    sizes = [
        (q.shape[2 + i] - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (weight.shape[2 + i] - 1)
        + output_padding[i]
        + 1
        for i in (0, 1)
    ]
    return q.new_empty((q.shape[0], weight.shape[1] * groups, *sizes))


CONV_TRANSPOSE2D = define(
    "conv_transpose2d(Tensor q, Tensor weight, Tensor bias, Tensor multiplier, int[2] stride,"
    " int[2] padding, int[2] output_padding, int groups, int[2] dilation,"
    f" int input_zero_point, {GRID}) -> Tensor",
    _conv_transpose2d,
    _fake_conv_transpose2d,
)


class IntConv2d(IntWeighted, of=CONV2D):
    """Integer convolution."""

    stride = Pair()
    padding = Pair()
    dilation = Pair()


class IntConvTranspose2d(IntWeighted, of=CONV_TRANSPOSE2D):
    """Integer transposed convolution; weight[in, out/groups, kh, kw]."""

    stride = Pair()
    padding = Pair()
    output_padding = Pair()
    dilation = Pair()
    output_axis = 1
    transposed = True


SPECS = (
    *specs_of_views(
        (Conv1d, "conv1d", Role.COMPUTE),
        (Conv3d, "conv3d", Role.COMPUTE),
        (ConvTranspose1d, "conv_transpose1d", Role.COMPUTE),
        (ConvTranspose3d, "conv_transpose3d", Role.COMPUTE),
    ),
    OpSpec(aten.conv2d.default, "conv2d", Role.COMPUTE, Conv2d, converts=True),
    OpSpec(
        aten.conv_transpose2d.input,
        "conv_transpose2d",
        Role.COMPUTE,
        ConvTranspose2d,
        converts=True,
    ),
    OpSpec(CONV2D, "conv2d", view=IntConv2d, ends_with_clamp=True),
    OpSpec(CONV_TRANSPOSE2D, "conv_transpose2d", view=IntConvTranspose2d, ends_with_clamp=True),
)
