"""Sums and means over whole axes, in float and in integers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from qpc.calls import Arg, Ints, OpView, aten
from qpc.library import GRID, define
from qpc.quant.arithmetic import average_multiplier, requantize, require_sum, wrap_int32
from qpc.registry import OpSpec, Role, specs_of_views


class Mean(OpView, of=aten.mean.dim):
    """Mean over `dims`, all dimensions if empty."""

    input = Arg[Node]("self")
    dims = Ints("dim")
    keepdim = Arg[bool]()
    dtype = Arg[torch.dtype | None]()


class Sum(OpView, of=aten.sum.dim_IntList):
    """Sum over `dims`, all dimensions if empty."""

    input = Arg[Node]("self")
    dims = Ints("dim")
    keepdim = Arg[bool]()
    dtype = Arg[torch.dtype | None]()


def reduced_axes(dims: Sequence[int], rank: int) -> set[int]:
    """The axes that `dims` names, counted from 0: all if it names none."""
    return {d % rank for d in dims} or set(range(rank))


def _count(q: Tensor, dims: Sequence[int]) -> int:
    return prod(q.shape[axis] for axis in reduced_axes(dims, q.dim()))


def _sum(
    q: Tensor,
    dims: Sequence[int],
    keepdim: bool,
    input_zero_point: int,
    multiplier: float,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    require_sum(_count(q, dims))
    total = (q.to(torch.int64) - input_zero_point).sum(tuple(dims), keepdim)
    return requantize(wrap_int32(total), multiplier, output_zero_point, lo, hi, q.dtype)


def _fake_reduced(q: Tensor, dims: Sequence[int], keepdim: bool, *_: Any) -> Tensor:
    reduced = reduced_axes(dims, q.dim())
    sizes = [1 if i in reduced else s for i, s in enumerate(q.shape)]
    return q.new_empty([s for i, s in enumerate(sizes) if keepdim or i not in reduced])


SUM = define(
    "sum(Tensor q, int[] dims, bool keepdim, int input_zero_point, float multiplier,"
    f" {GRID}) -> Tensor",
    _sum,
    _fake_reduced,
)


def _mean(
    q: Tensor,
    dims: Sequence[int],
    keepdim: bool,
    input_zero_point: int,
    input_scale: float,
    output_scale: float,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    """`sum`, by the number of values that are there: the same graph serves images of any size."""
    multiplier = average_multiplier(input_scale, output_scale, _count(q, dims))
    return _sum(q, dims, keepdim, input_zero_point, multiplier, output_zero_point, lo, hi)


MEAN = define(
    "mean(Tensor q, int[] dims, bool keepdim, int input_zero_point, float input_scale,"
    f" float output_scale, {GRID}) -> Tensor",
    _mean,
    _fake_reduced,
)


SPECS = (
    *specs_of_views((Mean, "mean", Role.REDUCE), (Sum, "sum", Role.REDUCE)),
    OpSpec(SUM, "sum", ends_with_clamp=True),
    OpSpec(MEAN, "mean", ends_with_clamp=True),
)
