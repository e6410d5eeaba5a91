"""Concats and splits that move nothing.

Layers write straight to their place in the joined tensor, and read their channels where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

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
_IMAGE_AXES, _CHANNELS = 4, 1


@dataclass(frozen=True)
class Slot:
    """A share of the channels of the images that `cat` makes."""

    cat: Node
    share: Share


def find_slots(groups: Iterable[Group], types: Mapping[Node, Concrete]) -> dict[Node, Slot]:
    """The slot of each layer, by the last node of its group, that a concat alone reads."""
    found = {}
    for group in groups:
        users = list(group.last.users)
        if len(users) == 1 and _can_be_placed(group):
            for slot in _slots(users[0], types):
                if slot[0] is group.last:
                    found[group.last] = slot[1]
    return found


def _slots(cat: Node, types: Mapping[Node, Concrete]) -> Iterator[tuple[Node, Slot]]:
    """The slots of a concat of quantized images along their channels, if `cat` is one."""
    result = types.get(cat)
    if cat.target is not aten.cat.default or not isinstance(result, TensorType):
        return
    given = arguments(cat)
    members = list(given["tensors"])
    if (
        result.dtype is not torch.uint8
        or len(result.shape) != _IMAGE_AXES
        or given["dim"] % _IMAGE_AXES != _CHANNELS
    ):
        return
    for member, first in member_channels(cat, types):
        if members.count(member) == 1:
            yield member, Slot(cat, Share(first, result.shape[_CHANNELS]))


def member_channels(cat: Node, types: Mapping[Node, Concrete]) -> Iterator[tuple[Node, int]]:
    """The members of a concat of images, each with its first channel in the result."""
    first = 0
    for member in arguments(cat)["tensors"]:
        known = types[member]
        assert isinstance(known, TensorType)
        yield member, first
        first += known.shape[_CHANNELS]


def _can_be_placed(group: Group) -> bool:
    """Whatever slides windows over images; a tensor that is added would need a place of its own."""
    adds = any(stage.target is qpc_ops.add.default for stage in group.stages)
    return not adds and group.anchor.target in WINDOWS


def reads_slices(node: Node) -> bool:
    """Whether the kernel of `node` can read channels that are a part of larger images."""
    return node.target is qpc_ops.conv2d.default and arguments(node)["groups"] == 1
