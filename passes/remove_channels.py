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

import torch
from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.channels.groups import ChannelAnalysis, analyze_channels
from qpc.channels.removal import Removal
from qpc.errors import PassError
from qpc.facts import CORE_FORM
from qpc.masks import MASKED, MASKS_PROPAGATED, clear_masks, masked_atoms, masks, unit_masks
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
        removed = masked_atoms(gm, analysis)
        if not removed:
            marked_nothing = any(True for _ in masks(gm))
            clear_masks(gm)
            return marked_nothing
        _check_whole(gm, analysis, removed)
        Removal(gm, analysis, removed).run()
        clear_masks(gm)
        ctx.summarize(f"{len(removed)} units of channels removed")
        return True


def _check_whole(gm: GraphModule, analysis: ChannelAnalysis, removed: frozenset[int]) -> None:
    """Masks must be as `PropagateMasks` leaves them under the same options."""
    pinned = {u.atom: u.pinned for group in analysis.groups for u in group.units if u.pinned}
    whole = {(name, axis): mask for name, axis, mask in unit_masks(analysis, removed)}
    for name, axis, mask in masks(gm):
        goes = whole.pop((name, axis), torch.zeros_like(mask))
        _require(not bool((goes & ~mask).any()), _INCOMPLETE.format(name, axis))
        _require(not bool((mask & ~goes).any()), _STAYS.format(name, axis, "it is not prunable"))
    for name, axis in whole:
        _require(False, _INCOMPLETE.format(name, axis))
    for unit in sorted(removed & pinned.keys()):
        name, axis = next((a.name, a.axis) for a in analysis.axes if bool((a.labels == unit).any()))
        _require(False, _STAYS.format(name, axis, pinned[unit]))


_INCOMPLETE = "channels of {!r} along axis {} would go with masked ones, but are not masked"
_STAYS = "a masked channel of {!r} along axis {} has to stay: {}"


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise PassError(otherwise, fix="run propagate-masks with the same options just before")
