"""Sums, differences and products of two values, in float and in integers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from qpc.calls import Arg, OpView, aten
from qpc.library import GRID, define
from qpc.quant.arithmetic import requantize
from qpc.registry import OpSpec, Role, specs_of_views


class Add(OpView, of=aten.add.Tensor):
    """`a + b`; core form has no alpha."""

    a = Arg[Node]("self")
    b = Arg[Node | float]("other")


class Sub(OpView, of=aten.sub.Tensor):
    """`a - b`; core form has no alpha."""

    a = Arg[Node]("self")
    b = Arg[Node | float]("other")


class Mul(OpView, of=aten.mul.Tensor):
    """`a * b`."""

    a = Arg[Node]("self")
    b = Arg[Node | float]("other")


def _add(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    b_zero_point: int,
    a_multiplier: int,
    b_multiplier: int,
    shift: int,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    total = (a.to(torch.int32) - a_zero_point) * a_multiplier
    total = total + (b.to(torch.int32) - b_zero_point) * b_multiplier
    half = 1 << (shift - 1) if shift else 0
    return (((total + half) >> shift) + output_zero_point).clamp(lo, hi).to(a.dtype)


def _fake_binary(a: Tensor, b: Tensor, *_: Any) -> Tensor:
    return a.new_empty(torch.broadcast_shapes(a.shape, b.shape))


ADD = define(
    "add(Tensor a, Tensor b, int a_zero_point, int b_zero_point, int a_multiplier,"
    f" int b_multiplier, int shift, {GRID}) -> Tensor",
    _add,
    _fake_binary,
)


def _mul(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    b_zero_point: int,
    multiplier: float,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    product = (a.to(torch.int32) - a_zero_point) * (b.to(torch.int32) - b_zero_point)
    return requantize(product, multiplier, output_zero_point, lo, hi, a.dtype)


MUL = define(
    "mul(Tensor a, Tensor b, int a_zero_point, int b_zero_point, float multiplier,"
    f" {GRID}) -> Tensor",
    _mul,
    _fake_binary,
)


SPECS = (
    *specs_of_views(
        (Add, "add", Role.COMBINE), (Sub, "sub", Role.COMBINE), (Mul, "mul", Role.COMBINE)
    ),
    OpSpec(ADD, "add", ends_with_clamp=True),
    OpSpec(MUL, "mul", ends_with_clamp=True),
)
