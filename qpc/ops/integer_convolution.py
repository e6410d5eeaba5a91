"""Integer convolutions and transposed ones, which end on a grid or in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qpc.calls import Pair
from qpc.layers import IntWeighted
from qpc.library import GRID, REALS, define, in_float
from qpc.ops.linear import check_layer
from qpc.quant.arithmetic import real_values, requantize, wrap_int32
from qpc.registry import OpSpec


def conv2d_sums(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    input_zero_point: int,
) -> Tensor:
    """The int32 accumulators of `qpc::conv2d`."""
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
    return wrap_int32(total + bias.to(torch.float64)[:, None, None])


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
    acc = conv2d_sums(q, weight, bias, stride, padding, dilation, groups, input_zero_point)
    return requantize(acc, multiplier[:, None, None], output_zero_point, lo, hi, q.dtype)


def _conv2d_float(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    input_zero_point: int,
    least: float | None,
    greatest: float | None,
) -> Tensor:
    acc = conv2d_sums(q, weight, bias, stride, padding, dilation, groups, input_zero_point)
    return real_values(acc, multiplier[:, None, None], least, greatest)


def fake_conv2d(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *_: Any,
) -> Tensor:
    """A tensor of the shape of a convolution's result."""
    sizes = [
        (q.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i]
        + 1
        for i in (0, 1)
    ]
    return q.new_empty((q.shape[0], weight.shape[0], *sizes))


CONV2D_ARGUMENTS = (
    "Tensor q, Tensor weight, Tensor bias, Tensor multiplier, int[2] stride, int[2] padding,"
    " int[2] dilation, int groups, int input_zero_point"
)
CONV2D = define(f"conv2d({CONV2D_ARGUMENTS}, {GRID}) -> Tensor", _conv2d, fake_conv2d)
CONV2D_FLOAT = define(
    f"conv2d_float({CONV2D_ARGUMENTS}, {REALS}) -> Tensor", _conv2d_float, in_float(fake_conv2d)
)


def conv_transpose2d_sums(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    input_zero_point: int,
) -> Tensor:
    """The int32 accumulators of `qpc::conv_transpose2d`."""
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
    return wrap_int32(total + bias.to(torch.float64)[:, None, None])


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
    window = stride, padding, output_padding, groups, dilation
    acc = conv_transpose2d_sums(q, weight, bias, *window, input_zero_point)
    return requantize(acc, multiplier[:, None, None], output_zero_point, lo, hi, q.dtype)


def _conv_transpose2d_float(
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
    least: float | None,
    greatest: float | None,
) -> Tensor:
    window = stride, padding, output_padding, groups, dilation
    acc = conv_transpose2d_sums(q, weight, bias, *window, input_zero_point)
    return real_values(acc, multiplier[:, None, None], least, greatest)


def fake_conv_transpose2d(
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
    """A tensor of the shape of a transposed convolution's result."""
    sizes = [
        (q.shape[2 + i] - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (weight.shape[2 + i] - 1)
        + output_padding[i]
        + 1
        for i in (0, 1)
    ]
    return q.new_empty((q.shape[0], weight.shape[1] * groups, *sizes))


CONV_TRANSPOSE2D_ARGUMENTS = (
    "Tensor q, Tensor weight, Tensor bias, Tensor multiplier, int[2] stride, int[2] padding,"
    " int[2] output_padding, int groups, int[2] dilation, int input_zero_point"
)
CONV_TRANSPOSE2D = define(
    f"conv_transpose2d({CONV_TRANSPOSE2D_ARGUMENTS}, {GRID}) -> Tensor",
    _conv_transpose2d,
    fake_conv_transpose2d,
)
CONV_TRANSPOSE2D_FLOAT = define(
    f"conv_transpose2d_float({CONV_TRANSPOSE2D_ARGUMENTS}, {REALS}) -> Tensor",
    _conv_transpose2d_float,
    in_float(fake_conv_transpose2d),
)


class IntConv2d(IntWeighted, of=(CONV2D, CONV2D_FLOAT)):
    """Integer convolution."""

    stride = Pair()
    padding = Pair()
    dilation = Pair()


class IntConvTranspose2d(IntWeighted, of=(CONV_TRANSPOSE2D, CONV_TRANSPOSE2D_FLOAT)):
    """Integer transposed convolution; weight[in, out/groups, kh, kw]."""

    stride = Pair()
    padding = Pair()
    output_padding = Pair()
    dilation = Pair()
    output_axis = 1
    transposed = True


SPECS = (
    OpSpec(CONV2D, view=IntConv2d, exact=True, ends_with_clamp=True, check=check_layer),
    OpSpec(
        CONV_TRANSPOSE2D,
        view=IntConvTranspose2d,
        exact=True,
        ends_with_clamp=True,
        check=check_layer,
    ),
    OpSpec(CONV2D_FLOAT, view=IntConv2d, exact=True, check=check_layer),
    OpSpec(CONV_TRANSPOSE2D_FLOAT, view=IntConvTranspose2d, exact=True, check=check_layer),
)
