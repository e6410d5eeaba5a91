"""Fused padding: convolutions pad for the pads in front of them, so that nobody copies images.

Some models pad in front of a convolution, as that pads all sides alike and they need one more row
at the bottom than at the top.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from torch.fx import Node

from qpc.calls import arguments, aten, qpc_ops
from qpc.types import Concrete, TensorType

Padding: TypeAlias = tuple[int, int, int, int]
"""Rows and columns to add: top, left, bottom, right."""

NO_PADDING: Padding = (0, 0, 0, 0)


def find_fused_padding(
    nodes: Iterable[Node], types: Mapping[Node, Concrete]
) -> dict[Node, Padding]:
    """What pads add to images of which only convolutions make use, which pad with the same."""
    found = {node: _padding(node, types) for node in nodes}
    return {node: padding for node, padding in found.items() if padding and _only_for_layers(node)}


def _padding(node: Node, types: Mapping[Node, Concrete]) -> Padding | None:
    if node.target is not aten.constant_pad_nd.default:
        return None
    image, amounts = types[node], list(arguments(node)["pad"])
    if not isinstance(image, TensorType) or len(image.shape) != 4:
        return None
    if any(not isinstance(amount, int) or amount < 0 for amount in amounts):
        return None
    left, right, top, bottom, *others = [*amounts, 0, 0][: max(4, len(amounts))]
    return None if any(others) else (top, left, bottom, right)


def _only_for_layers(node: Node) -> bool:
    value = arguments(node)["value"]

    def pads_with_the_same(user: Node) -> bool:
        if user.target is not qpc_ops.conv2d.default:
            return False
        return bool(arguments(user)["input_zero_point"] == value)

    return bool(node.users) and all(pads_with_the_same(user) for user in node.users)
