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
from qpc.quant.arithmetic import real_values, requantize
from qpc.quant.exact_sums import exact_sums
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

    def product(x: Tensor, w: Tensor) -> Tensor:  # `x` is centred, so that padding contributes zero
        return F.conv2d(x, w, None, tuple(stride), tuple(padding), tuple(dilation), groups)

    window = stride, padding, dilation, False, (0, 0), groups
    return exact_sums(
        product,
        q,
        weight,
        bias[:, None, None],
        input_zero_point,
        axis=1 if groups == 1 else None,
        single=multiplies_and_adds(q, weight, *window),
    )


_Backend = torch._C._ConvBackend  # type: ignore[attr-defined]  # PyTorch's stubs lack it
_EXACT = (_Backend.Mkldnn, _Backend.Slow2d, _Backend.SlowDilated2d, _Backend.SlowTranspose2d)


def _like(integers: Tensor) -> Tensor:
    """A float32 tensor of the same shape, whose values nobody reads."""
    return torch.empty(1).expand(integers.shape)


def multiplies_and_adds(
    q: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> bool:
    """Whether PyTorch's kernel for such a convolution in float32 is known not to be Winograd's.

    oneDNN takes its direct algorithm unless asked otherwise, and the slow kernels multiply
    matrices. Kernels for depthwise convolutions on ARM, and those of NNPACK, are Winograd's.
    """
    chosen = torch._C._select_conv_backend(
        _like(q),
        _like(weight),
        None,
        list(stride),
        list(padding),
        list(dilation),
        transposed,
        list(output_padding),
        groups,
    )
    return chosen in _EXACT


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
    window = tuple(stride), tuple(padding), tuple(output_padding), groups, tuple(dilation)

    def product(x: Tensor, w: Tensor) -> Tensor:
        return F.conv_transpose2d(x, w, None, *window)

    given = stride, padding, dilation, True, output_padding, groups
    single = multiplies_and_adds(q, weight, *given)
    return exact_sums(
        product,
        q,
        weight,
        bias[:, None, None],
        input_zero_point,
        axis=None,
        output_axis=1,
        single=single,
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
