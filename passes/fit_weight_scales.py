"""Choose the scales of weights by the error that they make in the outputs.

Before:  conv2d(x, fake_quantize(W)) on scales that look at W alone
After:   the same on the scales, for each channel, with the least squared error of the outputs
Keeps:   the float weights and biases, and scales where none is better
Leaves:  layers in float, shared weights, grids that training moves; layers of more than `bits`
Cost:    two forward passes on the samples, and 37 products for each layer at `rows` places

The scale of least squared error of the weights themselves clips the largest weights, and these
matter most: at 4 bits, every layer's outputs shrink. Nagel et al. 2021, arXiv:2106.08295, section
3.1, name the error of outputs as the one to minimise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.analysis.layers_in_turn import Samples, Turn, above_bits, layers_in_turn
from qpc.base import Pass, PassContext
from qpc.batches import Batch
from qpc.facts import FAKE_QUANTIZED
from qpc.quant.weight_points import fitted_scales, nearest_points
from qpc.settings import require_count


@dataclass(frozen=True)
class FitWeightScales(Pass, name="fit-weight-scales", requires={FAKE_QUANTIZED}):
    """Fit the scales of weights to the outputs of their layers on `batches`.

    batches: as `Calibrate` takes them; the first ones that make up `samples` are used.
    rows: at how many places (pixels of images) each layer's outputs are looked at, at most.
    bits: the most bits of the weights whose scales are fitted.
    reference: the graph in float whose outputs are aimed at; by default this graph's own weights.
    """

    batches: Iterable[Batch] = field(repr=False)
    samples: int = 32
    rows: int = 1024
    bits: int = 8
    reference: GraphModule | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_count("samples", self.samples)
        require_count("rows", self.rows)
        require_count("bits", self.bits, 2)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        given = Samples(self.batches, self.samples, self.reference, "fit scales of weights")
        changed = layers = 0
        for turn in layers_in_turn(self, gm, ctx, given, wanted=above_bits(self.bits)):
            changed += self._fit(turn, ctx)
            layers += 1
        ctx.summarize(f"{changed} of {layers} layers have other scales")
        return changed > 0

    def _fit(self, turn: Turn, ctx: PassContext) -> bool:
        rows, old = turn.rows(self.rows), turn.scales
        targets = rows.targets - rows.grouped(turn.bias)[:, None]
        shape = (*rows.targets.shape[::2], 1) if old.numel() > 1 else (1, 1, 1)
        weight = rows.grouped(turn.weight)

        def rounded(scales: Tensor) -> Tensor:
            return turn.safe(nearest_points(weight, scales, turn.limit), weight / scales)

        found = fitted_scales(weight, old.reshape(shape), turn.limit, rows.inputs, targets, rounded)
        turn.set_scales(found.reshape(old.shape))
        if torch.equal(turn.scales, old):
            return False
        ctx.change(turn.node, f"scales times {float((turn.scales / old).mean()):.2f} on average")
        turn.update()
        return True
