"""Integer sums and products of two values, which end on a grid or in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from qpc.calls import arguments
from qpc.errors import BackendError
from qpc.library import GRID, REALS, define, in_float
from qpc.quant.arithmetic import real_values, requantize, require_bounds
from qpc.registry import OpSpec, fits_by_itself

if TYPE_CHECKING:
    from qpc.analysis.integer_proofs import IntegerProof


def _weighted_sum(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    b_zero_point: int,
    a_multiplier: int,
    b_multiplier: int,
) -> Tensor:
    total = (a.to(torch.int32) - a_zero_point) * a_multiplier
    return total + (b.to(torch.int32) - b_zero_point) * b_multiplier


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
    total = _weighted_sum(a, b, a_zero_point, b_zero_point, a_multiplier, b_multiplier)
    half = 1 << (shift - 1) if shift else 0
    return (((total + half) >> shift) + output_zero_point).clamp(lo, hi).to(a.dtype)


def _fake_binary(a: Tensor, b: Tensor, *_: Any) -> Tensor:
    return a.new_empty(torch.broadcast_shapes(a.shape, b.shape))


def _add_float(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    b_zero_point: int,
    a_multiplier: int,
    b_multiplier: int,
    scale: float,
    least: float | None,
    greatest: float | None,
) -> Tensor:
    """`scale` is that of the sum, which has less than 2**24 steps: float32 holds it exactly."""
    total = _weighted_sum(a, b, a_zero_point, b_zero_point, a_multiplier, b_multiplier)
    return real_values(total, scale, least, greatest)


_ADD = "Tensor a, Tensor b, int a_zero_point, int b_zero_point, int a_multiplier, int b_multiplier"
ADD = define(f"add({_ADD}, int shift, {GRID}) -> Tensor", _add, _fake_binary)
ADD_FLOAT = define(
    f"add_float({_ADD}, float scale, {REALS}) -> Tensor", _add_float, in_float(_fake_binary)
)


def _product(a: Tensor, b: Tensor, a_zero_point: int, b_zero_point: int) -> Tensor:
    return (a.to(torch.int32) - a_zero_point) * (b.to(torch.int32) - b_zero_point)


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
    product = _product(a, b, a_zero_point, b_zero_point)
    return requantize(product, multiplier, output_zero_point, lo, hi, a.dtype)


def _mul_float(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    b_zero_point: int,
    multiplier: float,
    least: float | None,
    greatest: float | None,
) -> Tensor:
    return real_values(_product(a, b, a_zero_point, b_zero_point), multiplier, least, greatest)


_MUL = "Tensor a, Tensor b, int a_zero_point, int b_zero_point, float multiplier"
MUL = define(f"mul({_MUL}, {GRID}) -> Tensor", _mul, _fake_binary)
MUL_FLOAT = define(f"mul_float({_MUL}, {REALS}) -> Tensor", _mul_float, in_float(_fake_binary))

# --- proofs ---------------------------------------------------------------------------------------

_INT16 = range(-(2**15), 2**15)
_MOST_SHIFT = 30


def _check_add(proof: IntegerProof, node: Node) -> None:
    """`2 * 255 * 2**15 + 2**29` at the most."""
    given = arguments(node)
    require_bounds(given.get("least"), given.get("greatest"))
    for name in ("a_multiplier", "b_multiplier"):
        if given[name] not in _INT16:
            raise BackendError(f"{name!r} is {given[name]}, which does not fit 16 bits")
    if "shift" in given and not 0 <= given["shift"] <= _MOST_SHIFT:
        raise BackendError(f"'shift' must be from 0 to {_MOST_SHIFT}, got {given['shift']}")


def _check_product(proof: IntegerProof, node: Node) -> None:
    given = arguments(node)
    require_bounds(given["least"], given["greatest"])


SPECS = (
    OpSpec(ADD, exact=True, ends_with_clamp=True, check=_check_add),
    OpSpec(MUL, exact=True, ends_with_clamp=True, check=fits_by_itself),
    OpSpec(ADD_FLOAT, exact=True, check=_check_add),
    OpSpec(MUL_FLOAT, exact=True, check=_check_product),
)
