"""Masks: which channels are to go, as plain data that travels with the graph.

A channel mask is a bool buffer, True where a channel is to be removed, for one axis of one
parameter. Masks are created on the axes that produce channels, propagated to everything that shares
these channels, and consumed by removal. `qpc.channels.masks` knows which channels those are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

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


def replace_masks(gm: GraphModule, new: Mapping[tuple[str, int], Tensor]) -> bool:
    """Set these masks, by parameter name and axis, and no others; whether that changes anything."""
    before = _marks(gm)
    clear_masks(gm)
    for (name, axis), remove in new.items():
        set_mask(gm, name, axis, remove)
    return _marks(gm) != before


def clear_masks(gm: GraphModule) -> bool:
    """Forget all channel masks; whether there were any."""
    there = CHANNEL_MASKS in gm._modules
    if there:
        delattr(gm, CHANNEL_MASKS)
    return there


def _marks(gm: GraphModule) -> dict[tuple[str, int], list[bool]]:
    return {(name, axis): mask.tolist() for name, axis, mask in masks(gm)}


def _has_masks(gm: GraphModule) -> str | None:
    return None if any(True for _ in masks(gm)) else "there is no channel mask"


MASKED = Fact("masked", _has_masks)
"""Some channels are marked for removal."""
