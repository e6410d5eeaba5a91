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

from qpc.base import Pass, PassContext
from qpc.channels.groups import analyze_channels
from qpc.channels.masks import MASKS_PROPAGATED, masked_units
from qpc.channels.removal import Removal
from qpc.facts import CORE_FORM
from qpc.masks import MASKED, clear_masks
from qpc.settings import require_patterns


@dataclass(frozen=True)
class RemoveChannels(
    Pass,
    name="remove-channels",
    requires={CORE_FORM, MASKS_PROPAGATED},
    invalidates={MASKED, MASKS_PROPAGATED},
):
    """Make channel masks real.

    heads, prune_outputs: as in `PropagateMasks`, with which they must agree.
    """

    heads: str | tuple[str, ...] = ()
    prune_outputs: bool = False

    def __post_init__(self) -> None:
        require_patterns("heads", self.heads)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        analysis = analyze_channels(gm, heads=self.heads, prune_outputs=self.prune_outputs)
        units = masked_units(gm, analysis)
        if units:
            Removal(gm, analysis, units).run()
            ctx.summarize(f"{len(units)} units of channels removed")
        return clear_masks(gm)
