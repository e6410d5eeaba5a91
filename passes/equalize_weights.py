"""Equalise the ranges of weights across layers.

Before:  conv2d(W1) -> relu -> conv2d(W2), whose channels differ in range by orders of magnitude
After:   conv2d(W1 / s) -> relu -> conv2d(s * W2): each channel has the same range in both weights
Keeps:   the output, up to float rounding
Leaves:  channels that something reads or makes that does not commute with a factor; shared weights
Cost:    `sweeps` walks over the weights; with batches, one forward pass each

Cross-layer equalisation: Nagel et al. 2019, arXiv:1906.04721, section 4.1. It helps where one scale
has to serve a whole tensor: of weights, or of the activations between. Chains of depthwise
convolutions, sums in residual streams (whose channels get one factor), pooling, concatenation and
reshaping are seen through.

ReLU6 and other clamps: without `batches` what they read is fixed; with them, a channel that reaches
its bound is, and the others may grow up to it. So the output is kept on the data seen. Nothing is
replaced by ReLU, as the paper does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.batches import Batch, checked_batches
from qpc.channels.extents import clamp_limits
from qpc.channels.scaling import (
    Scaling,
    apply_scales,
    column_ranges,
    report_scales,
    require_float,
    row_ranges,
)
from qpc.channels.scaling_walk import scaling_of
from qpc.facts import CORE_FORM
from qpc.layers import weighted
from qpc.settings import require_count, require_number

_SETTLED = 1e-3  # what factors may still differ from 1 by


@dataclass(frozen=True)
class EqualizeWeights(Pass, name="equalize-weights", requires={CORE_FORM}):
    """Scale channels so that the weights that make and that read each have the same range.

    batches: data on which clamps are watched, as `Calibrate` takes it; None leaves channels that
    are clamped as they are.
    sweeps: how often to go over all layers at most; it ends sooner if nothing changes any more.
    most: the largest factor, and the inverse of the least, in one sweep.
    """

    batches: Iterable[Batch] | None = field(default=None, repr=False)
    sweeps: int = 20
    most: float = 1e4

    def __post_init__(self) -> None:
        require_count("sweeps", self.sweeps)
        require_number("most", self.most, 1.0, above=True)
        if self.batches is not None:
            checked_batches(self.batches, self.name)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        require_float(gm, self.name)
        scaling = scaling_of(gm)
        for node, why in scaling.declined().items():
            ctx.decline(node, why)
        lowest, fixed = clamp_limits(gm, scaling, self.batches, self.name)
        total = torch.ones(scaling.units, dtype=torch.float64)
        parts = scaling.parts()
        for _ in range(self.sweeps):
            largest = 0.0
            for part in parts:
                scales = torch.maximum(_balanced(gm, part, self.most), lowest / total)
                scales = torch.where(fixed, 1.0, scales)
                apply_scales(gm, part, scales)
                total = total * scales
                largest = max(largest, float(scales.log().abs().max()))
            if largest < _SETTLED:
                break
        return report_scales(ctx, scaling, total)


def _balanced(gm: GraphModule, part: Scaling, most: float) -> Tensor:
    """sqrt(range of what makes a unit / range of what reads it) for the units of a part, else 1."""
    made, read = (torch.zeros(part.units, dtype=torch.float64) for _ in range(2))
    for rows in part.made:
        if weighted(rows.node) is not None and rows.weight:
            made.scatter_reduce_(0, rows.channels, row_ranges(gm, rows), "amax")
    for columns in part.read:
        read.scatter_reduce_(0, columns.channels, column_ranges(gm, columns), "amax")
    both = (made > 0.0) & (read > 0.0)
    return torch.where(both, (made / read).sqrt(), 1.0).clamp(1.0 / most, most)
