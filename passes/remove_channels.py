"""Remove the channels that masks mark, from every tensor that shares them.

Before:  conv1 -> add(skip) -> conv2, mask {2, 5} on conv1's output
After:   the same nodes; conv1, skip's producer and conv2's input lose channels 2 and 5
Keeps:   the outputs, exactly, when masked channels are zero at every consumer
Leaves:  channels that must stay; they are reported by `propagate-masks`
Cost:    one run of the graph's data movement on labels

Parameters, buffers and per-channel quantization state are sliced where their labels say so; sizes
inside reshape, expand, slices, groups and normalised shapes follow. Operators whose meaning depends
on the number of channels (layer norm, group norm, softmax, means over channels) go on over the
channels kept; attention keeps its original scale.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule

from qpc.analysis.channels import analyze_channels
from qpc.analysis.removal import Removal
from qpc.base import Pass, PassContext
from qpc.facts import CORE_FORM
from qpc.masks import MASKED, MASKS_PROPAGATED, clear_masks, masked_atoms, masks


@dataclass(frozen=True)
class RemoveChannels(
    Pass,
    name="remove-channels",
    requires={CORE_FORM, MASKS_PROPAGATED},
    invalidates={MASKED, MASKS_PROPAGATED},
):
    """Make channel masks real.

    heads: as in `PropagateMasks`, with which it must agree.
    """

    heads: tuple[str, ...] = ()

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        analysis = analyze_channels(gm, heads=self.heads)
        removed = masked_atoms(gm, analysis)
        if not removed:
            marked_nothing = any(True for _ in masks(gm))
            clear_masks(gm)
            return marked_nothing
        Removal(gm, analysis, removed).run()
        clear_masks(gm)
        ctx.summarize(f"{len(removed)} units of channels removed")
        return True
