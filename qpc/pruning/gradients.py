"""Criteria that look at how the loss depends on the weights, on samples of the data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.fx import GraphModule
from torch.nn.attention import SDPBackend, sdpa_kernel

from qpc.batches import Batch, inputs_of
from qpc.channels.groups import ChannelAnalysis, Group
from qpc.errors import PassError
from qpc.meta import attribute
from qpc.pruning.criteria import CRITERIA, Judge, Measured, OfWeights, require_batches, rows
from qpc.settings import require_count

Loss = Callable[[Any, Any], Tensor]
"""From the graph's output and the batch that it is for to a scalar."""


@dataclass(frozen=True, kw_only=True)
class GradientCriterion(OfWeights):
    """A criterion that judges channels by derivatives of a loss.

    batches: as `Calibrate` takes them; a list, since they may be read more than once.
    loss: from the graph's output and the batch to a scalar, such as
    `lambda output, batch: cross_entropy(output, batch[1])`.
    """

    batches: Iterable[Batch] = field(repr=False)
    loss: Loss = field(repr=False)

    @abstractmethod
    def importance(
        self, loss: Tensor, weights: Mapping[str, Tensor], number: int
    ) -> dict[str, Tensor]:
        """A number for each weight element, from the loss of the batch `number`."""

    def of_channel(self, importance: Tensor) -> Tensor:
        """The scores of channels on one batch, from importance[channel, everything else]."""
        return importance.sum(1)

    def prepared(self, gm: GraphModule, analysis: ChannelAnalysis) -> Judge:
        axes = [
            axis for axis in self.axes(analysis) if attribute(gm, axis.name).is_floating_point()
        ]
        weights = {axis.name: _leaf(gm, axis.name) for axis in axes}
        sums = [torch.zeros(len(axis.labels), dtype=torch.float64) for axis in axes]
        count = 0
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # others have no second derivative
            for count, batch in enumerate(self.batches, start=1):
                output = functional_call(gm, weights, tuple(inputs_of(gm, batch, count - 1)))
                found = self.importance(self.loss(output, batch), weights, count)
                for axis, total in zip(axes, sums, strict=True):
                    total += self.of_channel(rows(gm, axis, found[axis.name]))
        require_batches(count)
        means = tuple((a.labels, total / count) for a, total in zip(axes, sums, strict=True))
        return Measured(self.aggregate, self.normalize, means)

    def scores(self, gm: GraphModule, analysis: ChannelAnalysis, group: Group) -> Tensor:
        return self.prepared(gm, analysis).scores(gm, analysis, group)


@CRITERIA.named("taylor")
@dataclass(frozen=True)
class Taylor(GradientCriterion):
    """The squared change of the loss to first order, were the channel's weights zero.

    With gradient g and weight w this is the square of the sum of g * w over the channel, averaged
    over batches. Molchanov et al. 2019, arXiv:1906.10771, as its gates compute it.
    """

    def importance(
        self, loss: Tensor, weights: Mapping[str, Tensor], number: int
    ) -> dict[str, Tensor]:
        gradients = _gradients(loss, list(weights.values()))
        return {
            name: gradient * weight
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }

    def of_channel(self, importance: Tensor) -> Tensor:
        return importance.sum(1).square()


@CRITERIA.named("hessian-diagonal")
@dataclass(frozen=True)
class HessianDiagonal(GradientCriterion):
    """The change of the loss to second order, by the diagonal of its Hessian: the sum of h w^2 / 2.

    LeCun et al. 1989, "Optimal brain damage". The diagonal h is that of the exact Hessian,
    estimated by Hutchinson's method: the mean of z * (H z) over random signs z. Scores can be
    negative where the model has not converged.

    probes: vectors z for each batch; seed: of their signs.
    """

    probes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("probes", self.probes)

    def importance(
        self, loss: Tensor, weights: Mapping[str, Tensor], number: int
    ) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        values = list(weights.values())
        gradients = _gradients(loss, values, create_graph=True)
        diagonals = [torch.zeros_like(value) for value in values]
        for _ in range(self.probes):
            signs = [_signs(value, generator) for value in values]
            terms = [(g * z).sum() for g, z in zip(gradients, signs, strict=True)]
            slope = torch.stack(terms).sum()
            try:
                products = _gradients(slope, values, retain_graph=True)
            except RuntimeError as e:
                raise PassError(
                    f"the second derivative of the loss cannot be computed: {e}",
                    fix="use Taylor, which needs the first one only",
                ) from e
            for diagonal, sign, product in zip(diagonals, signs, products, strict=True):
                diagonal += sign * product / self.probes
        return {
            name: 0.5 * diagonal * weight.detach().square()
            for (name, weight), diagonal in zip(weights.items(), diagonals, strict=True)
        }


def _gradients(
    loss: Tensor, weights: list[Tensor], *, create_graph: bool = False, retain_graph: bool = False
) -> tuple[Tensor, ...]:
    """The gradients by each weight; zero where the loss does not depend on it."""
    if not loss.requires_grad:
        return tuple(torch.zeros_like(weight) for weight in weights)
    return torch.autograd.grad(
        loss,
        weights,
        create_graph=create_graph,
        retain_graph=retain_graph or create_graph,
        allow_unused=True,
        materialize_grads=True,
    )


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=generator).to(like.dtype) * 2 - 1


def _leaf(gm: GraphModule, name: str) -> Tensor:
    return attribute(gm, name).detach().clone().requires_grad_()
