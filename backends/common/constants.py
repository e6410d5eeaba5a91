"""Constant values: what a compiler can compute itself, as it depends on no input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set

import torch
from torch._ops import OpOverload
from torch.fx import Node

from qpc.types import Concrete, TensorType


def find_constants(
    nodes: Iterable[Node], types: Mapping[Node, Concrete], fused: Set[Node]
) -> frozenset[Node]:
    """Parameters, numbers, and calls of operators on nothing else.

    nodes: in the order of the graph; fused: those that are computed together with others, which
    have no value of their own.
    """
    found: set[Node] = set()

    def is_known(node: Node) -> bool:
        return node in found and isinstance(types[node], TensorType | int | float)

    for node in nodes:
        given = node.op == "get_attr" or isinstance(types[node], int | float)
        if node not in fused and (given or is_constant_call(node, is_known)):
            found.add(node)
    return frozenset(found)


def is_constant_call(node: Node, is_known: Callable[[Node], bool]) -> bool:
    """Whether a node calls an operator that always has the same result, as its inputs are known."""
    if not isinstance(node.target, OpOverload):
        return False
    random = torch.Tag.nondeterministic_seeded in node.target.tags
    return not random and all(is_known(source) for source in node.all_input_nodes)
