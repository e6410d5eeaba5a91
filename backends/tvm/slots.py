"""Concats and splits that move nothing.

Values that a concat joins are computed where they lie in the joined tensor, and whatever else reads
them reads them there. The same goes for concats: one that is a part of another, because this joins
it or the same values and more, has no tensor of its own. Nor has a slice of channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from qpc.backends.tvm.fuse import Group
from qpc.backends.tvm.kernels.geometry import Share
from qpc.ops.views import arguments, aten, qpc_ops
from qpc.shapes import Concrete, TensorType

WINDOWS = (
    qpc_ops.conv2d.default,
    qpc_ops.conv_transpose2d.default,
    qpc_ops.max_pool2d.default,
    qpc_ops.avg_pool2d.default,
    qpc_ops.resize2d.default,
)
"""Operators that read and write images as NHWC."""
ELEMENTWISE = (
    qpc_ops.add.default,
    qpc_ops.mul.default,
    qpc_ops.lookup.default,
    qpc_ops.clamp.default,
)
READERS = frozenset((*WINDOWS, *ELEMENTWISE))
"""Operators whose kernels read channels that are a part of larger images where they are."""
_IMAGE_AXES, _CHANNELS = 4, 1


@dataclass(frozen=True)
class Slot:
    """A share of the channels of the images that `cat` makes."""

    cat: Node
    share: Share

    def part(self, first: int) -> Slot:
        """The slot that begins `first` channels later."""
        return replace(self, share=self.share.part(first))


def find_slots(
    nodes: Sequence[Node], groups: Sequence[Group], types: Mapping[Node, Concrete]
) -> dict[Node, Slot]:
    """Where values lie that are computed in a concat's tensor; `nodes` are those to be computed.

    Keys are the last nodes of groups, operators that no group has, and concats inside others.
    """
    fused = {stage for group in groups for stage in group.stages}
    cats = {node: None for node in nodes if joins_channels(node, types)}
    placeable = {
        *cats,
        *(group.last for group in groups if _can_be_placed(group)),
        *(node for node in nodes if node.target in ELEMENTWISE and node not in fused),
    }
    slots: dict[Node, Slot] = {}
    for cat in reversed(cats):  # those that may hold others first
        if (shared := _shared(cat, slots, types)) is not None:
            slots.setdefault(cat, shared)
        home = home_of(cat, slots, types)
        for member, first in members(cat, types):
            if member in placeable and member not in slots and _is_worth_it(member, cats, fused):
                slots[member] = home.part(first)
    return slots


def home_of(cat: Node, slots: Mapping[Node, Slot], types: Mapping[Node, Concrete]) -> Slot:
    """Where the result of a concat lies: in another's tensor, or all of its own."""
    return slots.get(cat) or Slot(cat, Share(0, _channels(cat, types)))


def joins_channels(node: Node, types: Mapping[Node, Concrete]) -> bool:
    """Whether the node is a concat of quantized images along their channels."""
    result = types.get(node)
    return (
        node.target is aten.cat.default
        and isinstance(result, TensorType)
        and result.dtype is torch.uint8
        and len(result.shape) == _IMAGE_AXES
        and arguments(node)["dim"] % _IMAGE_AXES == _CHANNELS
    )


def members(cat: Node, types: Mapping[Node, Concrete]) -> Iterator[tuple[Node, int]]:
    """What a concat joins, each with its first channel in the result.

    Slices that together are all channels of one value count as that value.
    """
    rest, first = list(arguments(cat)["tensors"]), 0
    while rest:
        member, count = _whole(rest, types) or (rest[0], 1)
        yield member, first
        first += _channels(member, types)
        del rest[:count]


def _whole(tensors: Sequence[Node], types: Mapping[Node, Concrete]) -> tuple[Node, int] | None:
    """The value that the first tensors are slices of, and how many are all of it."""
    source, end = None, 0
    for count, tensor in enumerate(tensors, 1):
        if tensor.target is not aten.slice.Tensor:
            return None
        given = arguments(tensor)
        source = source or given["self"]
        channels = given["dim"] % _IMAGE_AXES == _CHANNELS and given["step"] == 1
        if given["self"] is not source or not channels or (given["start"] or 0) != end:
            return None
        end += _channels(tensor, types)
        if end == _channels(source, types):
            return source, count
    return None


def _shared(cat: Node, slots: Mapping[Node, Slot], types: Mapping[Node, Concrete]) -> Slot | None:
    """Where a concat lies if another holds all its members side by side."""
    found = [(slots.get(member), first) for member, first in members(cat, types)]
    start = found[0][0]
    same = start and all(slot == start.part(first) for slot, first in found)
    return start if same else None


def _can_be_placed(group: Group) -> bool:
    """Whatever slides windows over images; a tensor that is added would need a place of its own."""
    adds = any(stage.target is qpc_ops.add.default for stage in group.stages)
    return not adds and group.anchor.target in WINDOWS


def _is_worth_it(member: Node, cats: Mapping[Node, None], fused: Set[Node]) -> bool:
    """Whether more copies into concats are saved than are made for readers that need their own."""
    apart = any(
        (user.target not in READERS and user.target is not aten.slice.Tensor) or user in fused
        for user in member.users
        if user not in cats
    )
    return not apart or sum(user in cats for user in member.users) > 1


def _channels(node: Node, types: Mapping[Node, Concrete]) -> int:
    known = types[node]
    assert isinstance(known, TensorType)
    return known.shape[_CHANNELS]
