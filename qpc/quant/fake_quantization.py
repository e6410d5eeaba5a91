"""Fake quantization: rounding to a grid and back in float, and what gradients pass through it.

With the step s, the zero point z and v = x * float32(1 / s), the value is

    y = s * rne(clamp(v, lo - z, hi - z))

the same reals that quantizing and dequantizing give. Rounding is flat almost everywhere, so its own
derivative teaches nothing. Training uses the straight-through estimator (Bengio et al. 2013,
arXiv:1308.3432), for which rounding is the identity, and clipping is what it is:

    dy/dx = 1 where lo - z < v < hi - z, and 0 elsewhere
    dy/ds = rne(v) - v where lo - z < v < hi - z, and the end that v was clipped to elsewhere
    dy/dz = 0 where lo - z < v < hi - z, and -s elsewhere

The second is LSQ (Esser et al. 2020, arXiv:1902.08153), the third LSQ+ (Bhalgat et al. 2020,
arXiv:2004.09576). Their sums over a tensor grow with it, so that LSQ scales them by
1 / sqrt(values * hi).

Everything here is written as whole-tensor operations in place: on CPUs they are vectorised, where
PyTorch's fused fake quantization is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from qpc.quant.gradient_blocks import Blocks
from qpc.quant.grid import SMALLEST_SCALE
from qpc.quant.pairs import safe_points, swap_groups

_Ends: TypeAlias = tuple[float, float] | tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Rounding:
    """A grid for each index of an axis, or one for the whole tensor.

    step: float32 steps, one value, or one for each index of `axis`. A step that is learned may
        become negative, which means its magnitude, and is at least `SMALLEST_SCALE`.
    zero_point: grid points that mean 0.0, as many as there are steps; brought to the grid if
        they are learned, and floats.
    lo, hi: the lowest and the highest grid point.
    groups: axis 0 holds that many groups, and there is one step for each group and index of `axis`.
    safe_pairs: `x` is a weight, with its output channels along `axis` of each group, whose pairs
        are brought to points that are safe, see `qpc.quant.pairs`. Gradients pass as if they were
        the nearest.
    """

    step: Tensor
    zero_point: Tensor
    lo: int
    hi: int
    axis: int = 0
    groups: int = 1
    safe_pairs: bool = False

    def apply(self, x: Tensor) -> Tensor:
        """`x` (floats, any shape) rounded to the grid, in float32; the lowest point for NaN."""
        step = self.steps(x)
        return self._rounded(_clipped(_scaled(x, step), self._ends(x))).mul_(step)

    def points(self, x: Tensor) -> Tensor:
        """The grid points that `x` is rounded to, less the zero points: whole floats."""
        return self._rounded(_clipped(_scaled(x, self.steps(x)), self._ends(x)))

    def _rounded(self, places: Tensor) -> Tensor:
        """The points for places within the grid, in their memory where that can be."""
        if not self.safe_pairs:
            return places.round_()
        swapped = self.axis == 1
        first = swap_groups(places, self.groups) if swapped else places
        points = safe_points(first.round(), first)
        return swap_groups(points, self.groups).contiguous() if swapped else points

    def input_gradient(self, gradient: Tensor, x: Tensor) -> Tensor:
        """The gradient at `x`: that at the result where `x` lies within the grid, 0 elsewhere."""
        if (ends := self._common_ends(x)) is not None:
            return Blocks(x, gradient, self._inverse(), ends).inside()
        return _inside(gradient, _scaled(x, self.steps(x)), self._ends(x))

    def gradients(
        self, gradient: Tensor, x: Tensor, *, zero_points: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The gradients at `x`, at the steps and at the zero points, each in its shape.

        zero_points: whether those at the zero points are asked for; None if not.
        """
        if (ends := self._common_ends(x)) is not None:
            blocks = Blocks(x, gradient, self._inverse(), ends)
            inside, at_step, clipped = blocks.sums(of_clipped=zero_points)
            at_zero = -clipped * self.step.abs().clamp(min=SMALLEST_SCALE)
        else:
            inside, at_step, at_zero = self._gradients(gradient, x)
        at_step = at_step.reshape(self.step.shape) * torch.where(self.step < 0, -1.0, 1.0)
        return inside, at_step, at_zero.reshape(self.zero_point.shape) if zero_points else None

    def _gradients(self, gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        step, ends = self.steps(x), self._ends(x)
        scaled = _scaled(x, step)
        inside = _inside(gradient, scaled, ends)
        within = _clipped(scaled, ends)
        points = self._rounded(within.clone())
        error = points - within
        clipped = gradient - inside
        # x is nearly y where it is inside, and a difference of two large sums would lose that
        steps = self._sums(inside, error) + self._sums(clipped, points)
        return inside, steps, self._sums(clipped, step.expand_as(x)).neg_()

    def _common_ends(self, x: Tensor) -> tuple[float, float] | None:
        """The ends of the grid where one step rounds all values by themselves; CPU only."""
        if (
            self.safe_pairs
            or self.step.numel() > 1
            or x.device.type != "cpu"
            or x.dtype != torch.float32
        ):
            return None
        zero = min(max(round(float(self.zero_point)), self.lo), self.hi)
        return float(self.lo - zero), float(self.hi - zero)

    def _inverse(self) -> float:
        return float(_inverse(self.step.abs().clamp(min=SMALLEST_SCALE)))

    def steps(self, x: Tensor) -> Tensor:
        """The steps, which are positive, in a shape that broadcasts over `x`."""
        return self._along(x, self.step.abs().clamp(min=SMALLEST_SCALE))

    def rows(self, x: Tensor) -> Tensor:
        """The values that each step rounds, one row for each: [steps, values of one step]."""
        if self.groups > 1:
            split = x.unflatten(0, (self.groups, -1))
            rows: Tensor = split.movedim(self.axis + 1, 1).flatten(0, 1).flatten(1)
            return rows
        return x.movedim(self.axis, 0).flatten(1)

    def _ends(self, x: Tensor) -> _Ends:
        """The lowest and the highest point with 0.0 at zero: numbers if all indices have the same.

        Numbers are read on CPUs only: elsewhere that would wait for the device.
        """
        zero = self.zero_point.to(torch.float32).round().clamp(self.lo, self.hi)
        if zero.device.type == "cpu" and (zero == zero.flatten()[:1]).all():
            first = zero.flatten()[0].item()
            return self.lo - first, self.hi - first
        zero = self._along(x, zero)
        return self.lo - zero, self.hi - zero

    def _along(self, x: Tensor, values: Tensor) -> Tensor:
        """One value for each index of the axis, in a shape that broadcasts over `x`."""
        shape = [1] * x.dim()
        if values.numel() == 1:
            return values.reshape(shape)
        shape[self.axis] = x.shape[self.axis]
        if self.groups == 1:
            return values.reshape(shape)
        shape[0] = self.groups
        return values.reshape(shape).repeat_interleave(x.shape[0] // self.groups, 0)

    def _sums(self, a: Tensor, b: Tensor) -> Tensor:
        """The sum of products for each step."""
        if self.step.numel() == 1:
            return torch.dot(a.reshape(-1), b.reshape(-1))
        product = a * b
        if self.groups > 1:
            product = product.unflatten(0, (self.groups, -1)).movedim(1, -1)
            kept = (0, self.axis) if self.axis else (0,)
        else:
            kept = (self.axis,)
        return product.sum([d for d in range(product.dim()) if d not in kept])


def _scaled(x: Tensor, step: Tensor) -> Tensor:
    """v: places on the grid, before they are rounded, with 0.0 at zero."""
    return x * _inverse(step)


def _inverse(step: Tensor) -> Tensor:
    return (1.0 / step.to(torch.float64)).to(torch.float32)


def _clipped(scaled: Tensor, ends: _Ends) -> Tensor:
    """Places brought to the ends of the grid, in the memory of `scaled` where that can be."""
    lowest, highest = ends
    if isinstance(lowest, Tensor) or isinstance(highest, Tensor):
        scaled = torch.where(scaled.isnan(), lowest, scaled)
        return torch.clamp(scaled, torch.as_tensor(lowest), torch.as_tensor(highest))
    scaled.nan_to_num_(lowest, highest, lowest)
    return scaled.clamp_(lowest, highest)


def _inside(gradient: Tensor, scaled: Tensor, ends: _Ends) -> Tensor:
    lowest, highest = ends
    if isinstance(lowest, float):  # one pass over memory instead of four
        found: Tensor = torch.ops.aten.hardtanh_backward(gradient, scaled, lowest, highest)
        return found
    return gradient * ((scaled > lowest) & (scaled < highest))
