"""Operator fusion: which nodes become the epilogue of the convolution or linear layer before them.

A layer whose value has one reader that adds another tensor, clamps or looks up a table can do so
before it stores its result. The kernel then stands where the last node of the chain stood, so that
everything it reads exists. When both operands of an addition end such a chain, the later layer
takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from qpc.backends.common.traits import StageKind, TraitTable, traits_of
from qpc.calls import arguments
from qpc.types import Concrete, TensorType


@dataclass(frozen=True)
class FusionLimits:
    """How much a layer may do behind itself: stages, and how many of these may be lookup tables."""

    stages: int = 4  # each one keeps constants in registers
    tables: int = 1  # each one keeps 256 bytes there


@dataclass(frozen=True)
class Group:
    """A layer and the nodes fused behind it, in order."""

    anchor: Node
    stages: tuple[Node, ...]

    @property
    def last(self) -> Node:
        """The node whose value the kernel stores."""
        return self.stages[-1] if self.stages else self.anchor


def find_groups(
    gm: GraphModule,
    types: Mapping[Node, Concrete],
    traits: TraitTable,
    limits: FusionLimits = FusionLimits(),
) -> list[Group]:
    """One group per layer with an epilogue, in the order of the graph."""
    search = _Search(types, traits, limits)
    claimed: set[Node] = set()
    groups = []
    for node in reversed(gm.graph.nodes):
        if traits_of(node, traits).epilogue:
            stages = search.chain(node, claimed)
            claimed.update(stages)
            groups.append(Group(node, tuple(stages)))
    return groups[::-1]


@dataclass(frozen=True)
class _Search:
    types: Mapping[Node, Concrete]
    traits: TraitTable
    limits: FusionLimits

    def chain(self, anchor: Node, claimed: Set[Node]) -> list[Node]:
        """The stages behind a layer, none of which other layers have claimed."""
        stages: list[Node] = []
        value = anchor
        while len(value.users) == 1 and len(stages) < self.limits.stages:
            (user,) = value.users
            if user in claimed or not self._fits(user, value):
                break
            if self._tables([*stages, user]) > self.limits.tables:
                break
            stages.append(user)
            value = user
        return stages

    def _fits(self, user: Node, value: Node) -> bool:
        stage = traits_of(user, self.traits).stage
        if _dtype(self.types[user]) is not _dtype(self.types[value]):
            return False  # a table of other integers, or of floats
        if stage is not StageKind.SUM:
            return stage is not None
        a, b = arguments(user)["a"], arguments(user)["b"]
        types = self.types
        return a is not b and types[a] == types[b] == types[value] == types[user]

    def _tables(self, stages: list[Node]) -> int:
        return sum(traits_of(stage, self.traits).stage is StageKind.TABLE for stage in stages)


def _dtype(value: Concrete) -> torch.dtype | None:
    return value.dtype if isinstance(value, TensorType) else None
