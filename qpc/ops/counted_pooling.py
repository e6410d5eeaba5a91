"""Averages of integers over windows that hold different numbers of values."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from qpc.calls import Pair, arguments
from qpc.library import GRID, define
from qpc.quant.arithmetic import average_multiplier, requantize, require_sum, wrap_int32
from qpc.registry import OpSpec

if TYPE_CHECKING:
    from qpc.analysis.integer_proofs import IntegerProof


def _counted_avg_pool2d(
    q: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    input_zero_point: int,
    input_scale: float,
    output_scale: float,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    """Every sum is divided by the number of values in its window, which differs at the border."""
    require_sum(prod(kernel_size))
    centred = q.to(torch.float64) - input_zero_point
    window = tuple(kernel_size), tuple(stride)
    total = F.avg_pool2d(centred, *window, tuple(padding), ceil_mode, divisor_override=1)
    counts = window_counts(q.shape[2:], *window, padding, ceil_mode, count_include_pad)
    counts = counts.to(q.device)
    table = torch.tensor(count_multipliers(kernel_size, input_scale, output_scale))
    ends = (output_zero_point, lo, hi, q.dtype)
    return requantize(wrap_int32(total), table[counts], *ends)


def window_counts(
    size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
) -> Tensor:
    """int64[rows, columns]: how many values the windows over an image of `size` hold."""
    window = tuple(kernel_size), tuple(stride)
    there = torch.ones((1, 1, *size), dtype=torch.float64)
    shape = F.avg_pool2d(there, *window, tuple(padding), ceil_mode).shape[2:]
    rows, columns = padding if count_include_pad else (0, 0)
    outside = (0, 0) if count_include_pad else tuple(padding)
    there = F.pad(there, (columns, columns, rows, rows), value=1.0)
    counts = F.avg_pool2d(there, *window, outside, ceil_mode, divisor_override=1)
    return counts[0, 0, : shape[0], : shape[1]].to(torch.int64)


def count_multipliers(
    kernel_size: Sequence[int], input_scale: float, output_scale: float
) -> list[float]:
    """What makes averages of sums, by the number of values in them; of none there are none."""
    counts = range(1, prod(kernel_size) + 1)
    return [0.0, *(average_multiplier(input_scale, output_scale, count) for count in counts)]


def _fake_counted_avg_pool2d(
    q: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    *_: Any,
) -> Tensor:
    window = tuple(kernel_size), tuple(stride), tuple(padding)
    pooled = F.avg_pool2d(q.new_empty(q.shape, dtype=torch.float32), *window, ceil_mode)
    return q.new_empty(pooled.shape)


COUNTED_AVG_POOL2D = define(
    "counted_avg_pool2d(Tensor q, int[2] kernel_size, int[2] stride, int[2] padding,"
    " bool ceil_mode, bool count_include_pad, int input_zero_point, float input_scale,"
    f" float output_scale, {GRID}) -> Tensor",
    _counted_avg_pool2d,
    _fake_counted_avg_pool2d,
)


def _check(proof: IntegerProof, node: Node) -> None:
    given = arguments(node)
    require_sum(prod(Pair().decode(given["kernel_size"])))
    average_multiplier(given["input_scale"], given["output_scale"], 1)


SPECS = (OpSpec(COUNTED_AVG_POOL2D, exact=True, ends_with_clamp=True, check=_check),)
