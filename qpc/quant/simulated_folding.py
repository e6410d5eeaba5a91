"""Weights that are rounded as they will be once the batch norm behind their layer is folded.

Folding multiplies the weights of output channel c by f[c] = gamma[c] / sqrt(var[c] + eps). To round
the product to a grid of step s, and to divide by f again, is to round the weights themselves to a
grid of step s / |f|: grids of weights are symmetric. So a layer with one step for each channel
needs nothing but that step, whatever its batch norm does meanwhile, and one with a single step for
all of its weights has it divided by the factors of its channels.

Jacob et al. 2018, arXiv:1712.05877, section 3.2, and Krishnamoorthi 2018, arXiv:1806.08342, section
3.2.2, whose graphs multiply and divide whole tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qpc.quant.grid import LARGEST_SCALE, SMALLEST_SCALE

_LEAST_FACTOR = 2.0**-100
"""Of a channel whose gamma is zero; its weights are rounded to zero on any grid of folded ones."""


@dataclass(frozen=True)
class UnfoldedStep:
    """One step for folded weights, as a step for each channel of the weights that are not folded.

    step: float32[1]; weight: float32[channels], or None for ones; running_var: float32[channels].
    """

    step: Tensor
    weight: Tensor | None
    running_var: Tensor
    eps: float

    def value(self) -> Tensor:
        """The steps, float32[channels], as legal as scales have to be."""
        exact = self._magnitude() / self._factors()
        return exact.clamp(SMALLEST_SCALE, LARGEST_SCALE).float()

    def gradients(self, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradients at `step` and at `weight`, given that at the steps of the channels."""
        factors, step = self._factors(), self._magnitude()
        exact = step / factors
        free = (exact > SMALLEST_SCALE) & (exact < LARGEST_SCALE) & (factors > _LEAST_FACTOR)
        real = torch.where(free, gradient.double(), 0.0)
        at_step = (real / factors).sum().reshape(self.step.shape)
        at_step = at_step * torch.where(self.step < 0, -1.0, 1.0)
        if self.weight is None:
            return at_step.float(), None
        sign = torch.where(self.weight < 0, -1.0, 1.0)
        at_weight = real * -exact / factors * sign / self._deviation()
        return at_step.float(), at_weight.float()

    def _magnitude(self) -> Tensor:
        return self.step.double().abs().clamp(min=SMALLEST_SCALE)

    def _deviation(self) -> Tensor:
        return (self.running_var.double() + self.eps).sqrt().clamp(min=SMALLEST_SCALE)

    def _factors(self) -> Tensor:
        one = torch.ones_like(self.running_var) if self.weight is None else self.weight
        return (one.double().abs() / self._deviation()).clamp(min=_LEAST_FACTOR)
