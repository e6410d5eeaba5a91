"""Which nodes become the epilogue of the convolution or linear layer before them.

A layer whose value has one reader that adds another tensor, clamps or looks up a table can do so
before it stores its result. The kernel then stands where the last node of the chain stood, so that
everything it reads exists. When both operands of an addition end such a chain, the later layer
takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from qpc.calls import arguments, qpc_ops
from qpc.types import Concrete

_ANCHORS = (
    qpc_ops.conv2d.default,
    qpc_ops.conv_transpose2d.default,
    qpc_ops.linear.default,
)
_POINTWISE = (qpc_ops.clamp.default, qpc_ops.lookup.default)
_MOST_STAGES = 4  # each one keeps constants in registers
_MOST_TABLES = 1  # each one keeps 256 bytes there


@dataclass(frozen=True)
class Group:
    """A layer and the nodes fused behind it, in order."""

    anchor: Node
    stages: tuple[Node, ...]

    @property
    def last(self) -> Node:
        """The node whose value the kernel stores."""
        return self.stages[-1] if self.stages else self.anchor


def find_groups(gm: GraphModule, types: Mapping[Node, Concrete]) -> list[Group]:
    """One group per convolution and linear layer."""
    claimed: set[Node] = set()
    groups = []
    for node in reversed(gm.graph.nodes):
        if node.target in _ANCHORS:
            stages = _chain(node, types, claimed)
            claimed.update(stages)
            groups.append(Group(node, tuple(stages)))
    return groups[::-1]


def _chain(anchor: Node, types: Mapping[Node, Concrete], claimed: set[Node]) -> list[Node]:
    stages: list[Node] = []
    value = anchor
    while len(value.users) == 1 and len(stages) < _MOST_STAGES:
        (user,) = value.users
        if user in claimed or not _fits(user, value, types):
            break
        if _tables([*stages, user]) > _MOST_TABLES:
            break
        stages.append(user)
        value = user
    return stages


def _fits(user: Node, value: Node, types: Mapping[Node, Concrete]) -> bool:
    if user.target in _POINTWISE:
        return True
    if user.target is not qpc_ops.add.default:
        return False
    a, b = arguments(user)["a"], arguments(user)["b"]
    return a is not b and types[a] == types[b] == types[value] == types[user]


def _tables(stages: list[Node]) -> int:
    return sum(stage.target is qpc_ops.lookup.default for stage in stages)
