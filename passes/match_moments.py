"""Give each channel of rounded layers the mean and the spread that it has in float.

Before:  conv2d(x, fake_quantize(W), b), whose channels have other means and are shrunk or grown
After:   conv2d(x, fake_quantize(g * W), g * b + e): the same integer weights, on scales times g
Keeps:   which points weights are rounded to
Leaves:  layers in float, shared weights and biases, grids that training moves
Cost:    two forward passes on the samples

This is what measuring batch norms anew after quantization (Nagel et al. 2022, arXiv:2203.11086,
section 5) comes to where they are folded into their layers: mean and variance of each channel are
restored by a factor and an offset, which scales and biases take up at no cost. The correction of
the weights' own mean and variance (Banner et al. 2019, arXiv:1810.05723, section 3.3) is the same
without data. Layers are corrected one after the other, each behind corrected ones, with activations
rounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.analysis.layers_in_turn import Samples, Turn, layers_in_turn
from qpc.base import Pass, PassContext
from qpc.batches import Batch
from qpc.facts import FAKE_QUANTIZED
from qpc.quant.weight_points import nearest_points
from qpc.settings import require_choice, require_count

_MOST = 2.0  # a channel of so different a spread is broken in another way


@dataclass(frozen=True)
class MatchMoments(Pass, name="match-moments", requires={FAKE_QUANTIZED}):
    """Correct means and gains of layers, as measured on `batches`.

    batches: as `Calibrate` takes them; the first ones that make up `samples` are used.
    gain: "least-squares", the factor that brings rounded values nearest to those in float, or
    "variance", the one that gives them the same variance.
    reference: the graph in float whose outputs are aimed at; by default this graph's own weights.
    """

    batches: Iterable[Batch] = field(repr=False)
    samples: int = 32
    gain: str = "least-squares"
    reference: GraphModule | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_count("samples", self.samples)
        require_choice("gain", self.gain, ("least-squares", "variance"))

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        given = Samples(self.batches, self.samples, self.reference, "match moments")
        layers = 0
        for turn in layers_in_turn(self, gm, ctx, given, wanted=_shared_bias):
            gains = self._gains(turn)
            scales = turn.scales
            points = nearest_points(turn.weight, _column(scales, turn.weight), turn.limit)
            turn.set_points(points, scales * gains)
            turn.update()
            turn.correct_bias()
            ctx.change(
                turn.node, f"gains from {float(gains.min()):.3f} to {float(gains.max()):.3f}"
            )
            layers += 1
        ctx.summarize(f"{layers} layers corrected")
        return layers > 0

    def _gains(self, turn: Turn) -> Tensor:
        """A factor for each scale, float32[out] or [1]."""
        made, wanted, both = _moments(turn)
        if turn.scales.numel() == 1:
            made, wanted, both = (m.sum(0, keepdim=True) for m in (made, wanted, both))
        found = both / made if self.gain == "least-squares" else (wanted / made).sqrt()
        found = torch.where((made > 0.0) & (both > 0.0), found, 1.0)
        return found.clamp(1.0 / _MOST, _MOST).float()


def _shared_bias(turn: Turn) -> str | None:
    bias = turn.layer.bias
    return f"{bias.target!r} is shared" if bias is not None and turn.shared_bias else None


def _column(scales: Tensor, weight: Tensor) -> Tensor:
    return scales.reshape(-1, *[1] * (weight.dim() - 1))


def _moments(turn: Turn) -> tuple[Tensor, Tensor, Tensor]:
    """The variances of rounded and float outputs, and their covariance, by channel, float64."""
    axis = turn.layer.channel_axis
    made, wanted = (
        [value.movedim(axis, 0).reshape(value.shape[axis], -1) for value in side[turn.node]]
        for side in (turn.walk.rounded, turn.walk.real)
    )
    count = max(sum(value.shape[1] for value in made), 1)
    a, b = _centred(made, count), _centred(wanted, count)
    pairs = ((a, a), (b, b), (a, b))
    variance, wanted_variance, covariance = (
        torch.stack([(x * y).sum(1, dtype=torch.float64) for x, y in zip(*pair, strict=True)]).sum(
            0
        )
        / count
        for pair in pairs
    )
    return variance, wanted_variance, covariance


def _centred(values: list[Tensor], count: int) -> list[Tensor]:
    total = torch.stack([value.sum(1, dtype=torch.float64) for value in values]).sum(0)
    mean = (total / count).to(values[0].dtype)[:, None]
    return [value - mean for value in values]
