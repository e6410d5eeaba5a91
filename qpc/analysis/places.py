"""Where a model begins and ends: the places that a configuration can name."""

from __future__ import annotations

from collections.abc import Mapping

from torch.fx import GraphModule, Node

from qpc.analysis.origins import activations
from qpc.registry import Role, role_of

LAYERS = (Role.COMPUTE, Role.STORED)
"""What layers with weights are called where they can be quantized, or are."""


def positions(gm: GraphModule, parts: Mapping[Node, Node]) -> dict[Node, str]:
    """Where a model begins and ends.

    "input": the graph's inputs, and the first layers that read them, also through operators of one
    tensor, such as a normalisation. "output": the last layers before the graph's outputs, likewise.
    "before-output": what makes the values that those read, unless it is one of them.
    """
    found: dict[Node, str] = {}
    for node in gm.graph.nodes:
        if node.op == "output":
            for value in node.all_input_nodes:
                found[_last_layer(value)] = "output"
    leading: set[Node] = set()
    for node in gm.graph.nodes:
        sources = activations(node)
        if node.op == "placeholder" or (len(sources) == 1 and sources[0] in leading):
            found[node] = "input"
            if role_of(node) not in LAYERS:
                leading.add(node)
    for layer in [node for node, position in found.items() if position == "output"]:
        for value in _makers_of_input(layer, parts):
            found.setdefault(value, "before-output")
    return found


def _makers_of_input(layer: Node, parts: Mapping[Node, Node]) -> list[Node]:
    """What makes the grid of the values that a layer reads, and those between that may share it."""
    if role_of(layer) is not Role.COMPUTE:
        return []
    (value, *_) = activations(layer) or (layer,)
    found = [value]
    while value in parts or role_of(value) in (Role.MOVE, Role.INTERPOLATE, Role.CLAMP):
        value = parts[value] if value in parts else activations(value)[0]
        found.append(value)
    return found


def _last_layer(value: Node) -> Node:
    """The layer that makes an output value, seen through operators of one tensor."""
    while role_of(value) not in LAYERS and len(activations(value)) == 1:
        value = activations(value)[0]
    return value
