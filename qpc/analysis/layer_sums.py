"""Which layers join the addition that alone reads them, so that their sums are not rounded before.

Such a layer has no grid of its own: its accumulators are added to the other operand on a finer
fixed-point grid, and what is stored is the sum. Of two layers whose values meet in an addition the
later one joins it; the other one is stored, as the operand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from torch.fx import GraphModule, Node

from qpc.calls import aten
from qpc.meta import info
from qpc.registry import quantization_of

_SUMS = (aten.add.Tensor, aten.sub.Tensor)


def layer_sums(
    gm: GraphModule,
    integer: AbstractSet[Node],
    parts: Mapping[Node, Node],
    rounds: Callable[[Node], bool],
) -> dict[Node, Node]:
    """For each sum that a layer joins the layer's value: its own, or that of a part behind it.

    integer: the operators that are to become integer ones, of which the sums end on a grid.
    parts: those among them that are to be folded into the layer that they read, see
    `plan_quantization`. rounds: whether a value is to be rounded, whoever reads it.
    """
    order = {node: place for place, node in enumerate(gm.graph.nodes)}
    found: dict[Node, Node] = {}
    for node in gm.graph.nodes:
        if node not in integer or node.target not in _SUMS:
            continue
        able = [
            value
            for value in _candidates(node)
            if (layer := _layer_of(value, parts)) in integer
            and _can_join(layer)
            and not rounds(layer)
            and not rounds(value)
        ]
        if able:
            found[node] = max(able, key=order.__getitem__)
    return found


def joined_layer(node: Node) -> Node | None:
    """The layer that joins a sum of a planned graph; None if there is none, or it is no sum.

    It is to be integer and has no grid, although the sum, which alone reads it, has one. While a
    batch norm is to be folded into it, that stands for it.
    """
    if node.target not in _SUMS or not info(node).integer or not _has_grid(node):
        return None
    found = (n for n in _candidates(node) if info(n).integer and not _has_grid(n))
    return next(found, None)


def joins_sum(node: Node) -> bool:
    """Whether a layer of a planned graph joins the sum that reads it."""
    return any(joined_layer(user) is node for user in node.users)


def _has_grid(node: Node) -> bool:
    """Whether a value of a planned graph has a grid, or will have one."""
    about = info(node)
    return about.qparams is not None or about.observer is not None


def _candidates(node: Node) -> list[Node]:
    """Operands of a sum that nothing else reads, of the sum's shape as the other operand is.

    What is subtracted is none: the accumulators of a layer are added.
    """
    operands = [n for n in node.args[:2] if isinstance(n, Node) and n.op != "get_attr"]
    shapes = {info(n).shape for n in (node, *operands)}
    if len(operands) < 2 or operands[0] is operands[1] or len(shapes) > 1:
        return []
    added = operands if node.target is aten.add.Tensor else operands[:1]
    return [value for value in added if list(value.users) == [node]]


def _layer_of(value: Node, parts: Mapping[Node, Node]) -> Node:
    """The layer that makes a value, or makes what is folded into it."""
    layer = parts.get(value)
    return layer if layer is not None and layer is value.all_input_nodes[0] else value


def _can_join(layer: Node) -> bool:
    return quantization_of(layer).convert_joined is not None
