"""Integer layers that add a value before their sums are rounded to 8 bits, and the sum of both.

A layer's accumulators are brought to the fixed-point grid of an addition, which is finer than the
grid of any value, and the other operand joins them there. So what the layer makes is rounded once,
with the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.fx import Node

from qpc.calls import Arg, arguments
from qpc.errors import BackendError
from qpc.library import GRID, define
from qpc.ops.integer_convolution import (
    CONV2D_ARGUMENTS,
    CONV_TRANSPOSE2D_ARGUMENTS,
    IntConv2d,
    IntConvTranspose2d,
    conv2d_sums,
    conv_transpose2d_sums,
    fake_conv2d,
    fake_conv_transpose2d,
)
from qpc.ops.linear import LINEAR_ARGUMENTS, IntLinear, check_layer, fake_linear, linear_sums
from qpc.quant.arithmetic import JOINED_BOUND, requantize_joined
from qpc.registry import OpSpec

if TYPE_CHECKING:
    from qpc.analysis.integer_proofs import IntegerProof

_JOIN = f"Tensor other, int other_zero_point, int other_multiplier, int shift, {GRID}"


def _conv2d_add(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    input_zero_point: int,
    other: Tensor,
    *numbers: int,
) -> Tensor:
    acc = conv2d_sums(q, weight, bias, stride, padding, dilation, groups, input_zero_point)
    return requantize_joined(acc, multiplier[:, None, None], other, *numbers)


def _conv_transpose2d_add(
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
    other: Tensor,
    *numbers: int,
) -> Tensor:
    window = stride, padding, output_padding, groups, dilation
    acc = conv_transpose2d_sums(q, weight, bias, *window, input_zero_point)
    return requantize_joined(acc, multiplier[:, None, None], other, *numbers)


def _linear_add(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    input_zero_point: int,
    other: Tensor,
    *numbers: int,
) -> Tensor:
    acc = linear_sums(q, weight, bias, input_zero_point)
    return requantize_joined(acc, multiplier, other, *numbers)


CONV2D_ADD = define(f"conv2d_add({CONV2D_ARGUMENTS}, {_JOIN}) -> Tensor", _conv2d_add, fake_conv2d)
CONV_TRANSPOSE2D_ADD = define(
    f"conv_transpose2d_add({CONV_TRANSPOSE2D_ARGUMENTS}, {_JOIN}) -> Tensor",
    _conv_transpose2d_add,
    fake_conv_transpose2d,
)
LINEAR_ADD = define(f"linear_add({LINEAR_ARGUMENTS}, {_JOIN}) -> Tensor", _linear_add, fake_linear)


class Conv2dAdd(IntConv2d, of=CONV2D_ADD):
    """Integer convolution that adds `other`."""

    other = Arg[Node]()


class ConvTranspose2dAdd(IntConvTranspose2d, of=CONV_TRANSPOSE2D_ADD):
    """Integer transposed convolution that adds `other`."""

    other = Arg[Node]()


class LinearAdd(IntLinear, of=LINEAR_ADD):
    """Integer linear layer that adds `other`."""

    other = Arg[Node]()


def _check(proof: IntegerProof, node: Node) -> None:
    """The layer as any, and an addition that fits 32 bits and whose bound changes no result."""
    check_layer(proof, node)
    given: dict[str, Any] = arguments(node)
    own, other = proof.type(node), proof.type(given["other"])
    if own != other:
        raise BackendError(
            f"it adds {other.dtype} of shape {other.shape} to {own.dtype} of shape {own.shape}"
        )
    shift, factor = given["shift"], given["other_multiplier"]
    if shift < 0 or not _fits(shift, factor):
        raise BackendError(
            f"'shift' is {shift} and 'other_multiplier' {factor}: 255 * (2**shift +"
            f" |other_multiplier|) must be {JOINED_BOUND} at most"
        )


def _fits(shift: int, factor: int) -> bool:
    return shift < JOINED_BOUND.bit_length() and 255 * ((1 << shift) + abs(factor)) <= JOINED_BOUND


SPECS = tuple(
    OpSpec(target, view=view, exact=True, ends_with_clamp=True, check=_check)
    for target, view in (
        (CONV2D_ADD, Conv2dAdd),
        (CONV_TRANSPOSE2D_ADD, ConvTranspose2dAdd),
        (LINEAR_ADD, LinearAdd),
    )
)
