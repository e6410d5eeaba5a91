"""Which results are not rounded to a grid, because nothing but float operators reads them.

The model's outputs count as such readers. An operator whose results only they read ends in float32:
its sums are multiplied by a scale, and that is all. Operators that only move values or choose among
them stay in float themselves there, so that what stands before them may end in float32.

A value that any integer operator reads has a grid, and all its readers see the rounded value: the
operator that makes it runs once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet

from torch.fx import GraphModule, Node

from qpc.analysis.origins import activations
from qpc.registry import Role, quantization_of, role_of, spec_of

NOT_READ_BY_LAYERS = "float operators read its result, and no quantized layer does"
"""The reason of sums and products that would be rounded for no gain."""


def float_results(
    gm: GraphModule,
    integer: AbstractSet[Node],
    parts: Mapping[Node, Node],
    rounds: Callable[[Node], bool],
) -> tuple[set[Node], set[Node]]:
    """Operators that end in float32, and those that stay in float as all they do is move values.

    integer: the operators that are to become integer ones. parts: those among them that are to be
    folded into the layer that they read, see `plan_quantization`. rounds: whether the configuration
    wants the results of an operator rounded, whoever reads them.
    """
    kept = {n for n in integer if _may_be_float(n, parts) and not rounds(n)}

    def passes(node: Node) -> bool:
        return node in kept and (node in parts or quantization_of(node).leaves_values)

    def holds(node: Node) -> bool:
        if any(user in integer and not passes(user) for user in node.users):
            return False
        moves = node not in parts and quantization_of(node).leaves_values
        return not moves or any(source in kept for source in activations(node))

    backwards = list(reversed(gm.graph.nodes))
    while fallen := [n for n in backwards if n in kept and not holds(n)]:
        kept.difference_update(fallen)
    moving = {n for n in kept if n not in parts and quantization_of(n).leaves_values}
    return kept - moving, moving


def _may_be_float(node: Node, parts: Mapping[Node, Node]) -> bool:
    found = quantization_of(node)
    return node in parts or found.ends_in_float or found.leaves_values


def read_by_no_layer(gm: GraphModule, integer: AbstractSet[Node]) -> set[Node]:
    """Sums and products of `integer` whose results reach float operators, and no integer layer.

    A residual stream between norms that stay in float is one: its integers would be rounded at each
    addition, and turned into floats again for every norm. Results that only the model's outputs
    read, or what moves them there, stay integer sums, which are the same bits everywhere.
    """
    layers: set[Node] = set()
    floats: set[Node] = set()
    for node in reversed(gm.graph.nodes):
        users = list(node.users)
        if any(u in integer and (role_of(u) is Role.COMPUTE or u in layers) for u in users):
            layers.add(node)
        if any(u in floats or (u not in integer and _rounds_as_float(u)) for u in users):
            floats.add(node)
    return {n for n in _combined(integer) if n in floats and n not in layers}


def _combined(nodes: Iterable[Node]) -> list[Node]:
    return [n for n in nodes if role_of(n) is Role.COMBINE and quantization_of(n).ends_in_float]


def _rounds_as_float(node: Node) -> bool:
    """Whether a call computes in float, in an order that depends on the compiler."""
    spec = spec_of(node)
    return node.op == "call_function" and not (spec is not None and spec.exact)
