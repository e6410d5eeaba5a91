"""Where the channels of a value come from and go to, through operators that only move them."""

from __future__ import annotations

from math import prod

from torch.fx import Node

from qpc.calls import arguments, aten
from qpc.layers import Weighted, weighted
from qpc.meta import info


def layer_behind(value: Node, axis: int) -> Weighted | None:
    """The layer that makes a value, seen through moves, if `axis` has its output channels.

    Nothing else may read what is between the two.
    """
    while len(value.users) == 1 and (before := axis_before(value, axis)) is not None:
        value, axis = value.all_input_nodes[0], before
    layer = weighted(value)
    return layer if layer is not None and output_channel_axis(layer) == axis else None


def layers_ahead(value: Node, axis: int) -> list[Weighted] | None:
    """All layers that read a value, through moves too, with its `axis` as their input channels."""
    found: list[Weighted] = []
    for user in value.users:
        layer = weighted(user)
        if layer is not None and layer.input is value and user.all_input_nodes.count(value) == 1:
            rank, weight_rank = len(info(value).shape or ()), len(info(layer.weight).shape or ())
            of_batch = layer.channel_axis == -1 or rank == weight_rank
            if not of_batch or axis != layer.channel_axis % rank:
                return None
            found.append(layer)
            continue
        places = range(len(info(user).shape or ()))
        after = next((a for a in places if axis_before(user, a) == axis), None)
        behind = None if after is None else layers_ahead(user, after)
        if behind is None:
            return None
        found += behind
    return found


def output_channel_axis(layer: Weighted) -> int | None:
    """The axis of a layer's value that runs over its output channels."""
    rank, weight_rank = len(info(layer.node).shape or ()), len(info(layer.weight).shape or ())
    if layer.channel_axis == -1:
        return rank - 1
    return layer.channel_axis if rank == weight_rank else None  # else there is no batch


def axis_before(node: Node, axis: int) -> int | None:
    """The axis of its input that a permutation or reshape has as `axis`; None if there is none."""
    if node.target is aten.permute.default:
        return int(arguments(node)["dims"][axis])
    if node.target is not aten.reshape.default:
        return None
    source, made = info(node.all_input_nodes[0]).shape or (), info(node).shape or ()
    for before, size in enumerate(source):
        if size == made[axis] and source[before + 1 :] == made[axis + 1 :]:
            return before
    behind = [size for size in made[axis + 1 :] if isinstance(size, int)]
    if len(behind) < len(made) - axis - 1:
        return None
    for before, size in enumerate(source):
        after = [s for s in source[before + 1 :] if isinstance(s, int)]
        known = len(after) == len(source) - before - 1
        if known and size == made[axis] and prod(after) == prod(behind):
            return before
    return None
