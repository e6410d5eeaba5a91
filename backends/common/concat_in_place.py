"""In-place concatenation: concats and splits that move nothing.

Values that a concat joins are computed where they lie in the joined tensor, and whatever else reads
them reads them there. The same goes for concats: one that is a part of another, because this joins
it or the same values and more, has no tensor of its own. Nor has a slice of channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch.fx import Node

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.common.fuse import Group
from qpc.backends.common.traits import StageKind, TraitTable, traits_of
from qpc.calls import arguments, aten
from qpc.types import Concrete, TensorType

CHANNELS = 1
"""The axis of images that concats in place join."""
_IMAGE_AXES = 4


@dataclass(frozen=True)
class ConcatPart:
    """Some channels of the images that `cat` makes."""

    cat: Node
    share: ChannelSlice

    def part(self, first: int) -> ConcatPart:
        """The part that begins `first` channels later."""
        return replace(self, share=self.share.part(first))


@dataclass(frozen=True)
class Concat:
    """How the result of a concat of channels comes about.

    home: where it lies, in a tensor of its own or in another concat's. copied: members that are
    copied to their places there, which are keys; the others are computed where they belong.
    in_place: whether any member is computed there, or the concat has no tensor of its own.
    """

    home: ConcatPart
    copied: Mapping[ConcatPart, Node]
    in_place: bool


@dataclass(frozen=True)
class InPlace:
    """What is computed in place.

    parts: where values lie that are computed in a concat's tensor, and concats inside others; keys
    are the last nodes of groups, operators that no group has, and concats. concats: how each concat
    of channels comes about.
    """

    parts: Mapping[Node, ConcatPart]
    concats: Mapping[Node, Concat]


def find_in_place(
    nodes: Sequence[Node],
    groups: Sequence[Group],
    types: Mapping[Node, Concrete],
    traits: TraitTable,
) -> InPlace:
    """What of `nodes`, those that are computed when the model runs, is computed in place."""
    cats = [node for node in nodes if joins_channels(node, types)]
    parts = _Search(nodes, cats, groups, types, traits).run()
    concats = {}
    for cat in cats:
        home = _home_of(cat, parts, types)
        placed = {home.part(first): member for member, first in members(cat, types)}
        copied = {part: member for part, member in placed.items() if parts.get(member) != part}
        in_place = cat in parts or any(part.cat is cat for part in parts.values())
        concats[cat] = Concat(home, MappingProxyType(copied), in_place)
    return InPlace(MappingProxyType(parts), MappingProxyType(concats))


def _home_of(
    cat: Node, parts: Mapping[Node, ConcatPart], types: Mapping[Node, Concrete]
) -> ConcatPart:
    """Where the result of a concat lies: in another's tensor, or all of its own."""
    return parts.get(cat) or ConcatPart(cat, ChannelSlice(0, _channels(cat, types)))


def joins_channels(node: Node, types: Mapping[Node, Concrete]) -> bool:
    """Whether the node is a concat of quantized images along their channels."""
    result = types.get(node)
    return (
        node.target is aten.cat.default
        and isinstance(result, TensorType)
        and result.dtype in (torch.uint8, torch.int8)
        and len(result.shape) == _IMAGE_AXES
        and arguments(node)["dim"] % _IMAGE_AXES == CHANNELS
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
        if not _slices_channels(tensor):
            return None
        given = arguments(tensor)
        source = source or given["self"]
        if given["self"] is not source or (given["start"] or 0) != end:
            return None
        end += _channels(tensor, types)
        if end == _channels(source, types):
            return source, count
    return None


class _Search:
    def __init__(
        self,
        nodes: Sequence[Node],
        cats: Sequence[Node],
        groups: Sequence[Group],
        types: Mapping[Node, Concrete],
        traits: TraitTable,
    ) -> None:
        self._types, self._traits, self._cats = types, traits, cats
        self._number = {node: i for i, node in enumerate(nodes)}
        self._group_of = {stage: group for group in groups for stage in group.stages}
        grouped = {n for group in groups for n in (group.anchor, *group.stages)}
        alone = [Group(node, ()) for node in nodes if node not in grouped]
        able = {g.last: g for g in (*groups, *alone) if traits_of(g.anchor, traits).in_place}
        self._joining = {group.anchor: group for group in groups}
        self._added = {last: list(self._added_by(group)) for last, group in able.items()}
        self._placeable = {*cats, *(last for last in able if last in self._number)}
        self._parts: dict[Node, ConcatPart] = {}

    def run(self) -> dict[Node, ConcatPart]:
        for cat in reversed(self._cats):  # those that may hold others first
            if (shared := self._shared(cat)) is not None:
                self._parts.setdefault(cat, shared)
            home = _home_of(cat, self._parts, self._types)
            places = dict(reversed(list(members(cat, self._types))))
            for member in sorted(places.keys() & self._placeable, key=self._number.__getitem__):
                if member not in self._parts and self._is_worth_it(member, home, places.keys()):
                    self._parts[member] = home.part(places[member])
        return self._parts

    def _shared(self, cat: Node) -> ConcatPart | None:
        """Where a concat lies if another holds all its members side by side."""
        found = [(self._parts.get(member), first) for member, first in members(cat, self._types)]
        start = found[0][0]
        same = start and all(part == start.part(first) for part, first in found)
        return start if same else None

    def _is_worth_it(self, member: Node, home: ConcatPart, together: Set[Node]) -> bool:
        """Whether more copies into concats are saved than are made for readers that need their own.

        What a kernel adds before it stores its result must lie in the same tensor as this.
        """
        if any(self._tensor(other) is not home.cat for other in self._added.get(member, ())):
            return False
        joins = [user for user in member.users if user in self._cats]
        others = [user for user in member.users if user not in self._cats]
        return len(joins) > 1 or all(self._reads_slices(u, member, together) for u in others)

    def _tensor(self, node: Node) -> Node | None:
        """The concat that a value is computed in."""
        while _slices_channels(node):
            node = arguments(node)["self"]
        part = self._parts.get(node)
        return part.cat if part else None

    def _reads_slices(self, user: Node, value: Node, together: Set[Node]) -> bool:
        """Whether a node can read channels of larger images, if those are the images `together`."""
        name = traits_of(user, self._traits).joined
        joins = name is not None and arguments(user)[name] is value
        group = self._group_of.get(user) or (self._joining.get(user) if joins else None)
        if group is None:
            return traits_of(user, self._traits).in_place or _slices_channels(user)
        return group.last in together

    def _added_by(self, group: Group) -> Iterator[Node]:
        """What a group adds."""
        value = group.anchor
        if name := traits_of(value, self._traits).joined:
            yield arguments(value)[name]
        for stage in group.stages:
            if traits_of(stage, self._traits).stage is StageKind.SUM:
                a, b = arguments(stage)["a"], arguments(stage)["b"]
                yield b if a is value else a
            value = stage


def _slices_channels(node: Node) -> bool:
    """Whether the node is a slice of consecutive channels, if it is one of images."""
    if node.target is not aten.slice.Tensor:
        return False
    given = arguments(node)
    return bool(given["dim"] % _IMAGE_AXES == CHANNELS and given["step"] == 1)


def _channels(node: Node, types: Mapping[Node, Concrete]) -> int:
    known = types[node]
    assert isinstance(known, TensorType)
    return known.shape[CHANNELS]
