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
class FoldedNorm:
    """A batch norm in inference, as folding takes it: float32[channels] each.

    weight: None for ones; running_mean: None where only factors are asked for.
    """

    weight: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor
    eps: float

    def deviations(self) -> Tensor:
        """sqrt(var + eps), in float64."""
        return (self.running_var.double() + self.eps).sqrt().clamp(min=SMALLEST_SCALE)

    def factors(self) -> Tensor:
        """f, in float64."""
        one = torch.ones_like(self.running_var) if self.weight is None else self.weight
        return one.double() / self.deviations()

    def magnitudes(self) -> Tensor:
        """|f|, which is never zero."""
        return self.factors().abs().clamp(min=_LEAST_FACTOR)

    def rounded_bias(
        self, bias: Tensor, layer_bias: Tensor | None, input_scale: Tensor, steps: Tensor
    ) -> Tensor:
        """`bias` of the batch norm, changed so that the bias of the folded layer is rounded.

        layer_bias: that of the layer; steps: float32[channels], of weights that are not folded.
        """
        assert self.running_mean is not None
        factors, bias64 = self.factors(), bias.double()
        before = -self.running_mean.double()
        if layer_bias is not None:
            before = before + layer_bias
        folded = (before * factors + bias64).float()
        scales = (steps.double().abs() * factors.abs()).clamp(SMALLEST_SCALE, LARGEST_SCALE)
        rounded = rounded_bias(folded, input_scale, scales.float())
        return (bias64 + (rounded.double() - folded)).float()


def rounded_bias(bias: Tensor, input_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """A bias (float32[channels]) rounded to the steps of its integer.

    input_scale: float32[1]; weight_scale: float32[channels] or [1]; their magnitudes count.
    """
    unit = legal_step(input_scale) * legal_step(weight_scale)
    return ((bias.double() / unit).round() * unit).float()


def legal_step(step: Tensor) -> Tensor:
    """The scale that a step becomes once it is frozen, in float64."""
    return step.double().abs().clamp(SMALLEST_SCALE, LARGEST_SCALE)


@dataclass(frozen=True)
class UnfoldedStep:
    """One step for folded weights, as a step for each channel of the weights that are not folded.

    step: float32[1].
    """

    step: Tensor
    norm: FoldedNorm

    def value(self) -> Tensor:
        """The steps, float32[channels], as legal as scales have to be."""
        exact = self._magnitude() / self.norm.magnitudes()
        return exact.clamp(SMALLEST_SCALE, LARGEST_SCALE).float()

    def gradients(self, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradients at `step` and at `weight`, given that at the steps of the channels."""
        factors, step = self.norm.magnitudes(), self._magnitude()
        exact = step / factors
        free = (exact > SMALLEST_SCALE) & (exact < LARGEST_SCALE) & (factors > _LEAST_FACTOR)
        real = torch.where(free, gradient.double(), 0.0)
        at_step = (real / factors).sum().reshape(self.step.shape)
        at_step = at_step * torch.where(self.step < 0, -1.0, 1.0)
        if self.norm.weight is None:
            return at_step.float(), None
        sign = torch.where(self.norm.weight < 0, -1.0, 1.0)
        at_weight = real * -exact / factors * sign / self.norm.deviations()
        return at_step.float(), at_weight.float()

    def _magnitude(self) -> Tensor:
        return self.step.double().abs().clamp(min=SMALLEST_SCALE)
