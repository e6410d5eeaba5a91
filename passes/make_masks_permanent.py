"""Forget the weight masks, and leave the zeros.

Before:  conv2d(x, W), `weight_masks.<name of W>` beside the graph
After:   conv2d(x, W), whose zeros are weights like others
Keeps:   the outputs, exactly
Leaves:  channel masks
Cost:    nothing
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.facts import CORE_FORM
from qpc.pruning.weight_masks import WEIGHTS_MASKED, clear_weight_masks, weight_masks


@dataclass(frozen=True)
class MakeMasksPermanent(Pass, name="make-masks-permanent", requires={CORE_FORM, WEIGHTS_MASKED}):
    """Drop all weight masks; training is free to move the zeros from then on."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        count = len(list(weight_masks(gm)))
        clear_weight_masks(gm)
        ctx.summarize(f"{count} weight masks forgotten")
        return count > 0
