"""Fused padding: convolutions pad for the pads in front of them, so that nobody copies images.

Some models pad in front of a convolution, as that pads all sides alike and they need one more row
at the bottom than at the top.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from torch.fx import Node

from qpc.backends.common.traits import TraitTable, traits_of
from qpc.calls import arguments, aten
from qpc.types import Concrete, TensorType

Padding: TypeAlias = tuple[int, int, int, int]
"""Rows and columns to add: top, left, bottom, right."""

NO_PADDING: Padding = (0, 0, 0, 0)


def find_fused_padding(
    nodes: Iterable[Node], types: Mapping[Node, Concrete], traits: TraitTable
) -> dict[Node, Padding]:
    """What pads add to images of which only convolutions make use, which pad with the same."""
    pads = [n for n in nodes if n.target is aten.constant_pad_nd.default]
    found = {node: _padding(node, types) for node in pads if _only_for_layers(node, traits)}
    return {node: padding for node, padding in found.items() if padding}


def _padding(node: Node, types: Mapping[Node, Concrete]) -> Padding | None:
    image, amounts = types[node], list(arguments(node)["pad"])
    if not isinstance(image, TensorType) or len(image.shape) != 4:
        return None
    if any(not isinstance(amount, int) or amount < 0 for amount in amounts):
        return None
    left, right, top, bottom, *others = [*amounts, 0, 0]
    return None if any(others) else (top, left, bottom, right)


def _only_for_layers(node: Node, traits: TraitTable) -> bool:
    value = arguments(node)["value"]

    def pads_with_the_same(user: Node) -> bool:
        name = traits_of(user, traits).pads_with
        return name is not None and bool(arguments(user)[name] == value)

    return bool(node.users) and all(pads_with_the_same(user) for user in node.users)
