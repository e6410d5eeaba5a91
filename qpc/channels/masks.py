"""Between masks and units: which units of channels masks mark, and which masks mark whole units.

Masks are made, completed and obeyed by three passes; what these must agree on stands here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.channels.atoms import NONE, collapse
from qpc.channels.groups import ChannelAnalysis, analyze_channels
from qpc.errors import PassError
from qpc.facts import Fact
from qpc.masks import MASKED, masks, replace_masks

Masks = dict[tuple[str, int], Tensor]
"""Masks by parameter name and axis: bool[size of the axis], True where a channel is to go."""


def mask_made_units(gm: GraphModule, analysis: ChannelAnalysis, units: Iterable[int]) -> bool:
    """Replace all masks by those of units where layers make them; whether that changes anything.

    Units that no layer makes are masked on the first axis they are on. Axes of layers that lose
    nothing get a mask that marks nothing.
    """
    chosen, made = set(units), Masks()
    left = set(chosen)
    for axis in sorted(analysis.axes, key=lambda axis: not axis.produces):
        wanted = sorted(chosen if axis.produces else left)
        going = torch.isin(axis.labels, torch.tensor(wanted))
        if axis.produces or bool(going.any()):
            made[axis.name, axis.axis] = going
            left -= set(axis.labels.tolist())
    return replace_masks(gm, made)


def mask_units(gm: GraphModule, analysis: ChannelAnalysis, units: Iterable[int]) -> bool:
    """Replace all masks by those of whole units, on every axis that shares them.

    Without units one axis gets a mask that marks nothing: it is known that nothing is to go.
    Returns whether that changes anything.
    """
    found = {(name, axis): remove for name, axis, remove in unit_masks(analysis, units)}
    if not found and analysis.axes:
        first = analysis.axes[0]
        found[first.name, first.axis] = torch.zeros(len(first.labels), dtype=torch.bool)
    return replace_masks(gm, found)


def masked_atoms(gm: GraphModule, analysis: ChannelAnalysis) -> frozenset[int]:
    """The units that have a masked channel anywhere."""
    marked = {(name, axis): mask for name, axis, mask in masks(gm)}
    found: set[int] = set()
    for axis in analysis.axes:
        mask = marked.get((axis.name, axis.axis))
        if mask is not None:
            found.update(torch.unique(axis.labels[mask]).tolist())
    return frozenset(found - {NONE})


def masked_units(gm: GraphModule, analysis: ChannelAnalysis) -> frozenset[int]:
    """The units that masks mark, all of them whole and free to go.

    Raises PassError, which names the first mask that is not as `PropagateMasks` leaves it under the
    options of the analysis.
    """
    units = masked_atoms(gm, analysis)
    if units and (problem := next(_problems(gm, analysis, units), None)):
        raise PassError(problem[-1], fix="run propagate-masks with the same options just before")
    return units


def unit_masks(
    analysis: ChannelAnalysis, units: Iterable[int]
) -> Iterator[tuple[str, int, Tensor]]:
    """The masks of whole units: parameter name, axis, mask."""
    gone = analysis.marks(frozenset(units))
    for axis in analysis.axes:
        remove = gone[axis.labels]  # NONE is -1, the last of the marks
        if bool(remove.any()):
            yield axis.name, axis.axis, remove


def spared_units(analysis: ChannelAnalysis, units: Iterable[int]) -> list[int]:
    """Units to take out of `units` so that no tensor loses all its channels: the first of each."""
    gone, spared = analysis.marks(frozenset(units)), []
    values = (labels for every in analysis.values.values() for labels in every)
    for labels in (*(a.labels for a in analysis.axes), *values):
        core = collapse(labels)[0]
        if core.numel() and bool(gone[core].all()):
            first = int(core.min())
            gone[first] = False
            spared.append(first)
    return spared


# --- complete masks -------------------------------------------------------------------------------


def _problems(
    gm: GraphModule, analysis: ChannelAnalysis, units: frozenset[int]
) -> Iterator[tuple[str, int, str]]:
    """Where masks are not those of whole units that may go: parameter name, axis, what is wrong."""
    whole = {(name, axis): mask for name, axis, mask in unit_masks(analysis, units)}
    for name, axis, mask in masks(gm):
        goes = whole.pop((name, axis), torch.zeros_like(mask))
        if bool((goes & ~mask).any()):
            yield name, axis, _INCOMPLETE.format(name, axis)
        if bool((mask & ~goes).any()):
            yield name, axis, _STAYS.format(name, axis, "it is not prunable")
    for name, axis in whole:
        yield name, axis, _INCOMPLETE.format(name, axis)
    pinned = {u.atom: u.pinned for group in analysis.groups for u in group.units if u.pinned}
    for unit in sorted(units & pinned.keys()):
        for axis_ in analysis.axes:
            if bool((axis_.labels == unit).any()):
                text = _STAYS.format(axis_.name, axis_.axis, pinned[unit])
                yield axis_.name, axis_.axis, text


_INCOMPLETE = "channels of {!r} along axis {} would go with masked ones, but are not masked"
_STAYS = "a masked channel of {!r} along axis {} has to stay: {}"


def _not_propagated(gm: GraphModule) -> str | None:
    """What is wrong with masks under any options of `PropagateMasks`, which no graph knows.

    Outputs may lose channels. Where channels are split over two axes, a mask may be of whole
    heads or of the same channels of every head.
    """
    if missing := MASKED.check(gm):
        return missing
    for name, axis, mask in masks(gm):
        if bool(mask.all()):
            return f"all channels of {name!r} along axis {axis} are masked"
    found: list[dict[tuple[str, int], str]] = []
    for heads in ((), ("*",)):
        analysis = analyze_channels(gm, heads=heads, prune_outputs=True)
        problems = _problems(gm, analysis, masked_atoms(gm, analysis))
        found.append({(name, axis): text for name, axis, text in problems})
    return next((text for place, text in found[0].items() if place in found[1]), None)


MASKS_PROPAGATED = Fact("masks-propagated", MASKED.check, _not_propagated)
"""Masks agree on all axes that share channels, mark nothing that must stay, and empty nothing."""
