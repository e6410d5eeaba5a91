"""What is decided about a graph at one batch size before code is made.

Small analyses decide it, each for itself; whoever writes code for the graph only reads the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch.fx import GraphModule, Node

from qpc.backends.common.concat_in_place import InPlace, find_in_place
from qpc.backends.common.constants import find_constants
from qpc.backends.common.fuse import Group, find_groups
from qpc.backends.common.fused_padding import NO_PADDING, Padding, find_fused_padding
from qpc.backends.common.orders import Order, choose_orders
from qpc.backends.common.traits import TraitTable
from qpc.backends.compiled import output_nodes
from qpc.types import Concrete


@dataclass(frozen=True)
class GraphPlan:
    """How the nodes of a graph are computed.

    types: of all values. nodes: those that are computed one after the other; others are computed
    together with one of these, or not at all. constants: nodes whose values the compiler computes.
    groups: layers with what is fused behind them, by the node whose value they store. in_place:
    concats that need no copies. padding: pads that the convolutions behind them do themselves.
    orders: of the axes of quantized values.
    """

    types: Mapping[Node, Concrete]
    nodes: tuple[Node, ...]
    constants: frozenset[Node]
    groups: Mapping[Node, Group]
    in_place: InPlace
    padding: Mapping[Node, Padding]
    orders: Mapping[Node, Order]

    def group(self, node: Node) -> Group:
        """The nodes that are computed with the one whose value is stored; it may be alone."""
        return self.groups.get(node) or Group(node, ())

    def padding_before(self, layer: Node) -> Padding:
        """What a convolution pads beside its own padding."""
        return self.padding.get(layer.all_input_nodes[0], NO_PADDING)


def plan_graph(gm: GraphModule, types: Mapping[Node, Concrete], traits: TraitTable) -> GraphPlan:
    """The plan of a graph whose values have these types, for kernels with these traits."""
    needed = _reachable(output_nodes(gm))
    computed = [node for node in gm.graph.nodes if node in needed]
    groups = find_groups(gm, types, traits)
    fused = {n for g in groups for n in (g.anchor, *g.stages) if n is not g.last}
    constants = find_constants(computed, types, fused)
    at_run_time = [node for node in computed if node not in constants]
    padding = find_fused_padding(computed, types, traits)
    return GraphPlan(
        types,
        tuple(node for node in computed if node not in fused),
        constants,
        MappingProxyType({group.last: group for group in groups}),
        find_in_place(at_run_time, groups, types, traits),
        MappingProxyType(padding),
        MappingProxyType(choose_orders(computed, types, padding, traits)),
    )


def _reachable(outputs: list[Node]) -> set[Node]:
    found, pending = set(outputs), list(outputs)
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                pending.append(source)
    return found
