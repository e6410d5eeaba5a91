"""Move the differences between channels from activations into weights.

Before:  layer_norm(g, b) -> linear(W), whose input has a few channels of far larger range
After:   layer_norm(g / s, b / s) -> linear(s * W): the input's channels are more alike
Keeps:   the output, up to float rounding
Leaves:  channels that something reads or makes that does not commute with a factor; shared weights
Cost:    one forward pass a batch; two where values are clamped and there is a strength

SmoothQuant: Xiao et al. 2022, arXiv:2211.10438. Activations have one scale for all channels, so
that channels of small range are rounded coarsely; weights have one for each output, and can take
differences between inputs. The factor of channel j is

    s[j] = max |x[j]| ** strength / max |W[:, j]| ** (1 - strength)

or, without a strength, the factor with which rounding is expected to harm the layers that read the
channels least; `qpc.channels.rounding_noise` says how that is estimated. It is folded into whatever
makes the channels: norms with parameters, linear layers, convolutions,
and all layers of a residual stream with the same factors. Clamps such as ReLU6 are seen through:
channels that reach the bound keep their scale, and the others grow up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.batches import Batch, checked_batches
from qpc.channels.extents import clamp_limits, measured_extents
from qpc.channels.rounding_noise import least_noise_scales, measured_statistics
from qpc.channels.scaling import (
    Scaling,
    apply_scales,
    column_ranges,
    report_scales,
    require_float,
)
from qpc.channels.scaling_walk import scaling_of
from qpc.facts import CORE_FORM
from qpc.settings import require_number

_MOST = 64.0  # a channel of 1/64 of the largest range has 4 of 256 points, and grows no further


@dataclass(frozen=True)
class SmoothActivations(Pass, name="smooth-activations", requires={CORE_FORM}):
    """Scale channels so that the activations that layers read are more alike on `batches`.

    batches: as `Calibrate` takes them, but they are read twice where values are clamped, so that a
    generator will not do.
    strength: from 0, which makes the weights that read channels alike, to 1, which makes
    activations alike; None takes for each group of channels what rounding to 8 bits harms least,
    and leaves channels that are clamped as they are, so that the output is kept on any data.
    """

    batches: Iterable[Batch] = field(repr=False)
    strength: float | None = 0.5

    def __post_init__(self) -> None:
        if self.strength is not None:
            require_number("strength", self.strength, 0.0, 1.0)
        checked_batches(self.batches, self.name)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        require_float(gm, self.name)
        scaling = scaling_of(gm)
        for node, why in scaling.declined().items():
            ctx.decline(node, why)
        seen = self.batches if self.strength is not None else None
        lowest, fixed = clamp_limits(gm, scaling, seen, self.name)
        if self.strength is None:
            chosen = self._by_noise(gm, scaling, ~fixed)
        else:
            chosen = self._by_strength(gm, scaling, lowest, self.strength)
        total = torch.ones(scaling.units, dtype=torch.float64)
        for part in scaling.parts():
            scales = torch.where(fixed, 1.0, chosen(part))
            apply_scales(gm, part, scales)
            total = total * scales
        return report_scales(ctx, scaling, total)

    def _by_strength(
        self, gm: GraphModule, scaling: Scaling, lowest: Tensor, strength: float
    ) -> Callable[[Scaling], Tensor]:
        least, greatest = measured_extents(gm, scaling, scaling.read, self.batches, self.name)
        ranges = torch.maximum(-least, greatest)
        return lambda part: torch.maximum(_alike(gm, part, ranges, strength), lowest)

    def _by_noise(
        self, gm: GraphModule, scaling: Scaling, free: Tensor
    ) -> Callable[[Scaling], Tensor]:
        found = measured_statistics(gm, scaling, self.batches, self.name)
        return lambda part: least_noise_scales(gm, part, found, free)


def _alike(gm: GraphModule, part: Scaling, ranges: Tensor, strength: float) -> Tensor:
    """The factors of a part's units, 1 elsewhere; the greatest range of all stays as it is."""
    weights = torch.zeros(part.units, dtype=torch.float64)
    for columns in part.read:
        weights.scatter_reduce_(0, columns.channels, column_ranges(gm, columns), "amax")
    used = (weights > 0.0) & (ranges > 0.0)
    scales = torch.ones_like(weights)
    if bool(used.any()):
        found = ranges[used] ** strength / weights[used] ** (1.0 - strength)
        found = found * ((ranges[used] / found).max() / ranges[used].max())
        scales[used] = found.clamp(1.0 / _MOST, _MOST)
    return scales
