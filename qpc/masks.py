"""Masks: which channels are to go, as plain data that travels with the graph.

A channel mask is a bool buffer, True where a channel is to be removed, for one axis of one
parameter. Masks are created on the axes that produce channels, propagated to everything that shares
these channels, and consumed by removal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.channels.atoms import NONE, collapse
from qpc.channels.groups import ChannelAnalysis
from qpc.companions import CHANNEL_MASKS
from qpc.errors import ConfigError
from qpc.facts import Fact, named_tensor, require_graph
from qpc.settings import require_count, require_kind

_AXIS = "axis_"


def set_mask(gm: GraphModule, name: str, axis: int, remove: Tensor) -> None:
    """Mark channels of one axis of the parameter `name`: bool[size of the axis], True means remove.

    Raises ConfigError if the mask does not fit the axis.
    """
    require_graph(gm, "set_mask")
    tensor = named_tensor(gm, name)
    require_count("axis", axis, 0)
    if axis >= tensor.dim():
        raise ConfigError(f"axis must be from 0 to {tensor.dim() - 1} for {name!r}, got {axis!r}")
    require_kind("remove", remove, Tensor, "a tensor of bool", fix="torch.tensor([True, ...])")
    size = tensor.shape[axis]
    if remove.dtype != torch.bool or remove.shape != (size,):
        raise ConfigError(
            f"the mask of {name!r} along axis {axis} must be bool[{size}], "
            f"got {remove.dtype} of shape {tuple(remove.shape)}"
        )
    owner: nn.Module = gm
    for part in (CHANNEL_MASKS, *name.split(".")):
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    owner.register_buffer(f"{_AXIS}{axis}", remove.detach().clone())


def masks(gm: GraphModule) -> Iterator[tuple[str, int, Tensor]]:
    """All channel masks of a graph: parameter name, axis, mask."""
    for full, buffer in list(gm.named_buffers()):
        if full.startswith(f"{CHANNEL_MASKS}."):
            name, _, leaf = full.removeprefix(f"{CHANNEL_MASKS}.").rpartition(".")
            yield name, int(leaf.removeprefix(_AXIS)), buffer


def clear_masks(gm: GraphModule) -> None:
    """Forget all channel masks."""
    if CHANNEL_MASKS in gm._modules:
        delattr(gm, CHANNEL_MASKS)


def masked_atoms(gm: GraphModule, analysis: ChannelAnalysis) -> frozenset[int]:
    """The units that have a masked channel anywhere."""
    marked = {(name, axis): mask for name, axis, mask in masks(gm)}
    found: set[int] = set()
    for axis in analysis.axes:
        mask = marked.get((axis.name, axis.axis))
        if mask is not None:
            found.update(torch.unique(axis.labels[mask]).tolist())
    return frozenset(found - {NONE})


def mask_units(gm: GraphModule, analysis: ChannelAnalysis, units: Iterable[int]) -> None:
    """Replace all masks by those of whole units, on every axis that shares them.

    Without units one axis gets a mask that marks nothing: it is known that nothing is to go.
    """
    clear_masks(gm)
    found = list(unit_masks(analysis, units))
    if not found and analysis.axes:
        first = analysis.axes[0]
        found = [(first.name, first.axis, torch.zeros(len(first.labels), dtype=torch.bool))]
    for name, axis, remove in found:
        set_mask(gm, name, axis, remove)


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
    for labels in (*(a.labels for a in analysis.axes), *analysis.values.values()):
        core = collapse(labels)[0]
        if core.numel() and bool(gone[core].all()):
            first = int(core.min())
            gone[first] = False
            spared.append(first)
    return spared


def _has_masks(gm: GraphModule) -> str | None:
    return None if any(True for _ in masks(gm)) else "there is no channel mask"


MASKED = Fact("masked", _has_masks)
"""Some channels are marked for removal."""
MASKS_PROPAGATED = Fact("masks-propagated", _has_masks)
"""Masks agree on all axes that share channels, mark nothing that must stay, and empty nothing."""
