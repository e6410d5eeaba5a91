"""Grids that are found at run time, one for each row of a matrix.

Every step is one float32 operation that is rounded as IEEE 754 says, and no product feeds a sum, so
that a row has the same grid and the same integers on every target. `docs/quantization.md` has the
formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor
from torch.nn import functional as F

from qpc.quant.grid import SMALLEST_SCALE

HIGHEST = 255
"""Integers of rows run from 0 to this."""


@dataclass(frozen=True)
class RowGrids:
    """Asymmetric grids of 256 points by row.

    finite: bool[rows, 1]: whether the row has a grid, as it holds neither NaN nor infinity. scale:
    float32[rows, 1]; inverse: float32[rows, 1], its reciprocal; zero_point: int32[rows, 1].
    """

    finite: Tensor
    scale: Tensor
    inverse: Tensor
    zero_point: Tensor

    @classmethod
    def of(cls, x: Tensor) -> RowGrids:
        """The grids of the rows of float32[rows, columns], each from its least to its greatest."""
        finite = torch.isfinite(x).all(1, keepdim=True)
        known = F.pad(torch.where(finite, x, 0.0), (1, 0))  # zero belongs to every grid
        greatest, least = known.amax(1, keepdim=True), known.amin(1, keepdim=True)
        # two quotients: the difference of two float32 may not be one
        range_ = greatest / HIGHEST - least / HIGHEST
        scale = range_.clamp(min=SMALLEST_SCALE)  # of a row of zeros, any will do
        inverse = 1.0 / scale
        zero_point = (-least * inverse).clamp(0.0, HIGHEST).round().to(torch.int32)
        return cls(finite, scale, inverse, zero_point)

    def centred(self, x: Tensor) -> Tensor:
        """The integers of `x` minus the zero points of their rows, int32; 0 without a grid."""
        product = torch.where(self.finite, x, 0.0) * self.inverse
        lowest = -self.zero_point.to(torch.float32)
        inside = torch.minimum(torch.maximum(product, lowest), lowest + HIGHEST)
        return inside.round().to(torch.int32)

    def real_scale(self) -> Tensor:
        """The scale of each row; NaN for those without a grid, so that their results are."""
        return torch.where(self.finite, self.scale, nan)
