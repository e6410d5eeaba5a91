"""Extend channel masks to everything that must go with the masked channels.

Before:  mask {2, 5} on conv1's output, which is added to conv0's
After:   mask {2, 5} on both outputs, their batch norms, and the inputs of all consumers
Keeps:   the graph and its outputs
Leaves:  channels that must stay, with the reason; one channel of a group that would be emptied
Cost:    one run of the graph's data movement on labels
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.channels.groups import Group, analyze_channels
from qpc.channels.masks import MASKS_PROPAGATED, mask_units, masked_atoms, spared_units
from qpc.facts import CORE_FORM
from qpc.masks import MASKED
from qpc.settings import require_patterns


@dataclass(frozen=True)
class PropagateMasks(
    Pass, name="propagate-masks", requires={CORE_FORM, MASKED}, establishes={MASKS_PROPAGATED}
):
    """Complete the masks to whole units of channels.

    heads: shell patterns of module paths in which attention is pruned by whole heads instead of by
    channels inside the heads.
    prune_outputs: let channels go that reach the output of the graph.
    """

    heads: str | tuple[str, ...] = ()
    prune_outputs: bool = False

    def __post_init__(self) -> None:
        require_patterns("heads", self.heads)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        analysis = analyze_channels(gm, heads=self.heads, prune_outputs=self.prune_outputs)
        wanted = masked_atoms(gm, analysis)
        chosen: set[int] = set()
        for group in analysis.groups:
            chosen |= _allowed(group, wanted, ctx)
        for unit in spared_units(analysis, chosen):
            chosen.discard(unit)
            ctx.decline(f"unit {unit}", "the last channels of a tensor stay")
        ctx.summarize(f"{len(chosen)} of {len(wanted)} masked units can go")
        return mask_units(gm, analysis, chosen)


def _allowed(group: Group, wanted: frozenset[int], ctx: PassContext) -> set[int]:
    """The masked units of a group that may go."""
    masked = [unit for unit in group.units if unit.atom in wanted]
    for why in sorted({unit.pinned for unit in masked if unit.pinned is not None}):
        count = sum(unit.pinned == why for unit in masked)
        ctx.decline(group.name, f"{count} masked channels stay: {why}")
    going = [unit.atom for unit in masked if unit.pinned is None]
    return set(going)
