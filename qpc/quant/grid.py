"""Integer grids and the affine map between real numbers and grid points.

`q = clamp(rne(x * float32(1 / scale)) + zero_point, lo, hi)` and `x ~ (q - zero_point) * scale`,
where rne rounds to nearest, ties to even. Jacob et al. 2018, arXiv:1712.05877, section 2.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from qpc.errors import ConfigError

SMALLEST_SCALE = 2.0**-126
"""The smallest normal float32; a smaller one may be flushed to zero by the hardware."""
LARGEST_SCALE = 2.0**119
"""The largest power of two at which every point of an 8-bit grid is a finite float32."""


@dataclass(frozen=True)
class Grid:
    """The `2**bits` integers that a quantized value may take; bits from 2 to 8."""

    bits: int = 8
    signed: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"bits must be from 2 to 8, got {self.bits!r}")

    @property
    def lo(self) -> int:
        """The lowest grid point."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def hi(self) -> int:
        """The highest grid point."""
        return self.lo + (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of symmetric quantization, with one more point below it than above."""
        return self.lo + (1 << (self.bits - 1))

    @property
    def dtype(self) -> torch.dtype:
        """`torch.int8` or `torch.uint8`, also for fewer than 8 bits."""
        return torch.int8 if self.signed else torch.uint8


@dataclass(frozen=True)
class QParams:
    """The map of one tensor to its grid: per-tensor scale and zero point.

    scale: an exact float32 value, from `SMALLEST_SCALE` to `LARGEST_SCALE`.
    zero_point: the grid point that means 0.0; `lo <= zero_point <= hi`.
    lo, hi: the lowest and highest grid point, both inclusive, within `dtype`.
    dtype: `torch.uint8` or `torch.int8`.

    Raises `ConfigError` for values outside these rules.
    """

    scale: float
    zero_point: int
    lo: int
    hi: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if not SMALLEST_SCALE <= self.scale <= LARGEST_SCALE:
            raise ConfigError(f"scale must be from 2**-126 to 2**119, got {self.scale!r}")
        if float(np.float32(self.scale)) != self.scale:
            raise ConfigError(f"scale must be an exact float32 value, got {self.scale!r}")
        if self.dtype not in (torch.uint8, torch.int8):
            raise ConfigError(f"dtype must be torch.uint8 or torch.int8, got {self.dtype}")
        limits = torch.iinfo(self.dtype)
        if not limits.min <= self.lo < self.hi <= limits.max:
            raise ConfigError(f"no {self.dtype} grid from lo={self.lo} to hi={self.hi}")
        if not self.lo <= self.zero_point <= self.hi:
            raise ConfigError(
                f"zero_point must be from lo={self.lo} to hi={self.hi}, got {self.zero_point}"
            )

    @classmethod
    def from_range(cls, lo: float, hi: float, grid: Grid, *, symmetric: bool) -> Self:
        """Return the map whose grid spans the reals from `lo` to `hi`, widened to contain 0.

        symmetric: the zero point is `grid.middle` and the larger of |lo| and |hi| is the highest
        grid point. Otherwise the zero point is the rounded place of 0.0, so the ends are met to
        half a scale; a range that starts at 0 has the zero point `grid.lo`.

        The range [0, 0] gets the scale 1.0. Scales are rounded to float32 and cut off at
        `SMALLEST_SCALE` and `LARGEST_SCALE`. Raises `ConfigError` unless lo <= hi, both finite.
        """
        if not (math.isfinite(lo) and math.isfinite(hi) and lo <= hi):
            raise ConfigError(f"no range from {lo!r} to {hi!r}")
        lo, hi = min(lo, 0.0), max(hi, 0.0)
        if symmetric:
            scale = nearest_scale(max(-lo, hi) / (grid.hi - grid.middle))
            return cls(scale, grid.middle, grid.lo, grid.hi, grid.dtype)
        scale = nearest_scale((hi - lo) / (grid.hi - grid.lo))
        zero_point = min(max(round(grid.lo - lo / scale), grid.lo), grid.hi)
        return cls(scale, zero_point, grid.lo, grid.hi, grid.dtype)

    @property
    def reciprocal(self) -> float:
        """`float32(1 / scale)`, the factor that quantization multiplies with."""
        return float(np.float32(1.0 / self.scale))

    @property
    def real_range(self) -> tuple[float, float]:
        """The real numbers that the lowest and the highest grid point stand for."""
        return (self.lo - self.zero_point) * self.scale, (self.hi - self.zero_point) * self.scale

    def quantize(self, x: Tensor) -> Tensor:
        """Return the grid points nearest to `x` (float32, any shape), in `dtype`; `lo` for NaN.

        Raises `TypeError` if `x` has another dtype.
        """
        if x.dtype != torch.float32:
            raise TypeError(f"quantize takes float32, got {x.dtype}")
        lowest, highest = float(self.lo - self.zero_point), float(self.hi - self.zero_point)
        product = x * self.reciprocal
        inside = torch.where(product > lowest, product, lowest)  # also where product is NaN
        inside = torch.where(inside < highest, inside, highest)
        return (inside.round().to(torch.int32) + self.zero_point).to(self.dtype)

    def dequantize(self, q: Tensor) -> Tensor:
        """Return the reals, in float32, that grid points `q` (integers, any shape) stand for."""
        return (q.to(torch.int32) - self.zero_point).to(torch.float32) * self.scale

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return `dequantize(quantize(x))`: float32, rounded to the grid, without gradient."""
        return self.dequantize(self.quantize(x))


def nearest_scale(value: float) -> float:
    """Return the legal scale nearest to `value`, which is not negative; 1.0 for 0."""
    if value == 0.0:
        return 1.0
    return float(np.float32(min(max(value, SMALLEST_SCALE), LARGEST_SCALE)))
