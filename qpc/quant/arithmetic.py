"""The integer arithmetic that the definitions of operators share.

- `rne` rounds to nearest, ties to even; NaN quantizes to `lo`.
- `requantize(acc, m, z, lo, hi) = clamp(rne(float32(acc) * m) + z, lo, hi)`: one float32
  multiplication, integers after it. A float product never feeds a float sum, so that no compiler
  can contract the two.
- `real_values(acc, m) = float32(acc) * m`: the same product, which only floats read and which is
  rounded to no grid.

`docs/quantization.md` has the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qpc.errors import BackendError, OverflowProofError, PassError

MOST_SUMMED = (2**31 - 1) // 255
"""Differences of 8-bit integers whose sum always fits 32 bits, in whatever order they are added."""

JOINED_BOUND = 2**22
"""What rounded accumulators that join an addition are clamped to: floats near it are integers."""


def float32(value: float) -> Tensor:
    """A tensor of one number."""
    return torch.tensor(value, dtype=torch.float32)


def clamp_round(real: Tensor, zero_point: int, lo: int, hi: int) -> Tensor:
    """`clamp(rne(real) + zero_point, lo, hi)` as int32; clamped first so that nothing overflows."""
    inside = torch.where(real > lo - zero_point, real, float32(lo - zero_point))
    inside = torch.where(inside < hi - zero_point, inside, float32(hi - zero_point))
    return inside.round().to(torch.int32) + zero_point


def requantize(
    acc: Tensor, multiplier: Tensor | float, zero_point: int, lo: int, hi: int, dtype: torch.dtype
) -> Tensor:
    """Bring int32 accumulators to a grid: `clamp(rne(float32(acc) * m) + z, lo, hi)`."""
    factor = float32(multiplier) if isinstance(multiplier, float) else multiplier
    real = acc.to(torch.float32) * factor  # finite, or infinite with the right sign
    return real.clamp_(lo - zero_point, hi - zero_point).round_().add_(zero_point).to(dtype)


def requantize_joined(
    acc: Tensor,
    multiplier: Tensor,
    other: Tensor,
    other_zero_point: int,
    other_multiplier: int,
    shift: int,
    zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    """Add integers to int32 accumulators on a common fixed-point grid; the sum gets its own grid.

    `clamp(((rne(clamp(float32(acc) * m, -2**22, 2**22)) + (other - z) * k + half) >> shift) + zy,
    lo, hi)`, in the dtype of `other`. Where `255 * (2**shift + |k|) <= 2**22`, whatever the inner
    clamp changes is beyond `lo` or `hi` anyway: it keeps the sum in 32 bits.
    """
    own = clamp_round(acc.to(torch.float32) * multiplier, 0, -JOINED_BOUND, JOINED_BOUND)
    total = own + (other.to(torch.int32) - other_zero_point) * other_multiplier
    half = 1 << (shift - 1) if shift else 0
    return (((total + half) >> shift) + zero_point).clamp(lo, hi).to(other.dtype)


def real_values(
    acc: Tensor, multiplier: Tensor | float, least: float | None, greatest: float | None
) -> Tensor:
    """The reals that int32 sums stand for: `clamp(float32(acc) * m, least, greatest)`, float32.

    One float32 multiplication, and a choice between numbers: nothing that is rounded again.
    """
    factor = float32(multiplier) if isinstance(multiplier, float) else multiplier
    real = acc.to(torch.float32) * factor
    if least is not None:
        real = torch.where(real > float32(least), real, float32(least))
    if greatest is not None:
        real = torch.where(real < float32(greatest), real, float32(greatest))
    return real


def wrap_int32(exact: Tensor) -> Tensor:
    """An exact integer (float64 or int64 tensor) as int32, modulo 2**32 as hardware does."""
    wide = exact.to(torch.int64)
    return ((wide + 2**31) % 2**32 - 2**31).to(torch.int32)


def reciprocal(scale: float) -> float:
    """`float32(1 / scale)`, the factor that `qpc::quantize` multiplies with."""
    return float(np.float32(1.0 / scale))


def average_multiplier(input_scale: float, output_scale: float, count: int) -> float:
    """`float32(input_scale / (output_scale * count))`, which requantizes a sum to its average.

    Computed in float64; 0 below the least normal float32, as it would be on hardware that flushes
    these. Raises OverflowProofError if it is too large for float32.
    """
    exact = input_scale / (output_scale * count)
    if exact < float(np.finfo(np.float32).tiny):
        return 0.0
    if exact > float(np.finfo(np.float32).max):
        raise OverflowProofError(f"the requantization multiplier {exact:.6g} does not fit float32")
    return float(np.float32(exact))


def require_multiplier(multiplier: Tensor) -> None:
    """Raise BackendError unless multipliers are finite and not negative."""
    if not bool((torch.isfinite(multiplier) & (multiplier >= 0)).all()):
        raise BackendError("a requantization multiplier is negative, infinite or NaN")


def require_bounds(least: float | None, greatest: float | None) -> None:
    """Raise BackendError unless these are bounds of float32 values, in order."""
    given = [bound for bound in (least, greatest) if bound is not None]
    if any(math.isnan(bound) or float(np.float32(bound)) != bound for bound in given):
        raise BackendError(f"the bounds {least} and {greatest} are no float32 numbers")
    if len(given) == 2 and given[0] > given[1]:
        raise BackendError(f"its bounds are {least} and {greatest}")


def require_sum(count: int) -> None:
    """Raise OverflowProofError if a sum of so many differences might not fit 32 bits."""
    if count > MOST_SUMMED:
        raise OverflowProofError(
            f"a sum of {count} integers may not fit 32 bits, which {MOST_SUMMED} always do",
            fix="keep it in float, or average in two steps",
        )


def require_sizes(x: Tensor, sizes: Sequence[int] | None, made_for: str) -> None:
    """Raise PassError unless the axes of `x` behind the first have these sizes.

    sizes: -1 stands for any size, None for any sizes at all.
    made_for: what takes no others, as the error begins: "the graph was made for inputs".
    """
    found = tuple(x.shape[1:])
    if sizes is None or (
        len(found) == len(sizes) and all(s in (-1, d) for s, d in zip(sizes, found, strict=True))
    ):
        return
    wanted = ", ".join("any" if size == -1 else str(size) for size in sizes)
    raise PassError(
        f"{made_for} of the sizes (N, {wanted}), not of {tuple(x.shape)}",
        fix="trace and quantize the model at the size at which it is used",
    )
