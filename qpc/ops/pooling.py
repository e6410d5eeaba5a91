"""Maxima and averages over windows, in float and in integers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from qpc.calls import Arg, One, OpView, Pair, arguments, aten
from qpc.library import GRID, define
from qpc.quant.arithmetic import requantize, require_sum, wrap_int32
from qpc.registry import OpSpec, Role, specs_of_views


class MaxPool1d(OpView, of=aten.max_pool1d.default):
    """Padding never wins."""

    input = Arg[Node]("self")
    kernel_size = One()
    padding = One()
    dilation = One()
    ceil_mode = Arg[bool]()

    @property
    def stride(self) -> int:
        """The stride; an empty argument means the kernel size."""
        given = arguments(self.node)["stride"]
        return One().decode(given) if given else self.kernel_size


class MaxPool2d(OpView, of=aten.max_pool2d.default):
    """Padding never wins."""

    input = Arg[Node]("self")
    kernel_size = Pair()
    padding = Pair()
    dilation = Pair()
    ceil_mode = Arg[bool]()

    @property
    def stride(self) -> tuple[int, int]:
        """The stride; an empty argument means the kernel size."""
        given = arguments(self.node)["stride"]
        return Pair().decode(given) if given else self.kernel_size


class AvgPool1d(OpView, of=aten.avg_pool1d.default):
    """Average over windows of one axis."""

    input = Arg[Node]("self")
    kernel_size = One()
    padding = One()
    ceil_mode = Arg[bool]()
    count_include_pad = Arg[bool]()

    @property
    def stride(self) -> int:
        """The stride; an empty argument means the kernel size."""
        given = arguments(self.node)["stride"]
        return One().decode(given) if given else self.kernel_size


class AvgPool2d(OpView, of=aten.avg_pool2d.default):
    """Average over windows."""

    input = Arg[Node]("self")
    kernel_size = Pair()
    padding = Pair()
    ceil_mode = Arg[bool]()
    count_include_pad = Arg[bool]()
    divisor_override = Arg[int | None]()

    @property
    def stride(self) -> tuple[int, int]:
        """The stride; an empty argument means the kernel size."""
        given = arguments(self.node)["stride"]
        return Pair().decode(given) if given else self.kernel_size


def _max_pool2d(
    q: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    window = tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation)
    return F.max_pool2d(q.to(torch.float32), *window, ceil_mode=ceil_mode).to(q.dtype)


def _fake_max_pool2d(
    q: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    window = tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation)
    pooled = F.max_pool2d(q.new_empty(q.shape, dtype=torch.float32), *window, ceil_mode=ceil_mode)
    return q.new_empty(pooled.shape)


MAX_POOL2D = define(
    "max_pool2d(Tensor q, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation,"
    " bool ceil_mode) -> Tensor",
    _max_pool2d,
    _fake_max_pool2d,
)


def _avg_pool2d(
    q: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    input_zero_point: int,
    multiplier: float,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    require_sum(prod(kernel_size))
    centred = q.to(torch.float64) - input_zero_point
    window = tuple(kernel_size), tuple(stride), tuple(padding)
    total = F.avg_pool2d(centred, *window, divisor_override=1)
    return requantize(wrap_int32(total), multiplier, output_zero_point, lo, hi, q.dtype)


def _fake_avg_pool2d(
    q: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    *_: Any,
) -> Tensor:
    sizes = [(q.shape[2 + i] + 2 * padding[i] - kernel_size[i]) // stride[i] + 1 for i in (0, 1)]
    return q.new_empty((*q.shape[:-2], *sizes))


AVG_POOL2D = define(
    "avg_pool2d(Tensor q, int[2] kernel_size, int[2] stride, int[2] padding,"
    f" int input_zero_point, float multiplier, {GRID}) -> Tensor",
    _avg_pool2d,
    _fake_avg_pool2d,
)


SPECS = (
    *specs_of_views(
        (MaxPool1d, "max_pool1d", Role.FLOAT),
        (MaxPool2d, "max_pool2d", Role.MOVE),
        (AvgPool1d, "avg_pool1d", Role.FLOAT),
        (AvgPool2d, "avg_pool2d", Role.REDUCE),
    ),
    OpSpec(MAX_POOL2D, "max_pool2d"),
    OpSpec(AVG_POOL2D, "avg_pool2d", ends_with_clamp=True),
)
