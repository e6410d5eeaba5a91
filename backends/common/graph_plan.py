"""What is decided about a graph at one batch size before code is made.

Small analyses decide it, each for itself; whoever writes code for the graph only reads the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch.fx import GraphModule, Node

from qpc.analysis.integer_proofs import IntegerProof, check_integers
from qpc.backends.common.activation_type import with_activations
from qpc.backends.common.concat_in_place import CHANNELS, InPlace, find_in_place
from qpc.backends.common.constants import find_constants
from qpc.backends.common.expand import Functions, expanded
from qpc.backends.common.fuse import Group, find_groups
from qpc.backends.common.fused_padding import NO_PADDING, Padding, find_fused_padding
from qpc.backends.common.orders import Order, choose_orders
from qpc.backends.common.traits import TraitTable
from qpc.backends.compiled import output_nodes
from qpc.layers import integer_layer
from qpc.meta import label
from qpc.shapes import noted_shapes
from qpc.types import Concrete, TensorType


@dataclass(frozen=True)
class GraphPlan:
    """How the nodes of a graph are computed.

    gm: the graph, of simpler operators than the one that was asked for if that had decompositions,
    and with other integers if kernels take those.
    types: of all values. nodes: those that are computed one after the other; others are computed
    together with one of these, or not at all. constants: nodes whose values the compiler computes.
    groups: layers with what is fused behind them, by the node whose value they store. in_place:
    concats that need no copies. padding: pads that the convolutions behind them do themselves.
    orders: of the axes of quantized values. greatest: for layers, the greatest integer that they
    ever multiply, padding included.
    """

    gm: GraphModule
    batch: int
    types: Mapping[Node, Concrete]
    nodes: tuple[Node, ...]
    constants: frozenset[Node]
    groups: Mapping[Node, Group]
    in_place: InPlace
    padding: Mapping[Node, Padding]
    orders: Mapping[Node, Order]
    greatest: Mapping[Node, int]

    def group(self, node: Node) -> Group:
        """The nodes that are computed with the one whose value is stored; it may be alone."""
        return self.groups.get(node) or Group(node, ())

    def padding_before(self, layer: Node) -> Padding:
        """What a convolution pads beside its own padding."""
        return self.padding.get(layer.all_input_nodes[0], NO_PADDING)

    def notes(self, nodes: Sequence[Node]) -> tuple[str, ...]:
        """What was decided about nodes that one kernel computes, in words."""
        return tuple(self._notes(nodes)) if nodes else ()

    def _notes(self, nodes: Sequence[Node]) -> Iterator[str]:
        for source in nodes[0].all_input_nodes:
            if source in self.padding:
                top, left, bottom, right = self.padding[source]
                sides = f"{top} above, {left} left, {bottom} below, {right} right"
                yield f"pads for {label(source)}: {sides}"
        if order := self.orders.get(nodes[0]):
            yield f"stores its axes in the order {order}"
        if part := self.in_place.parts.get(nodes[-1]):
            first, width = part.share.first, self.types[nodes[-1]]
            assert isinstance(width, TensorType)
            last = first + width.shape[CHANNELS]
            yield f"is channels {first}..{last} of the {part.share.channels} of {label(part.cat)}"


def plan_graph(
    gm: GraphModule,
    batch: int,
    traits: TraitTable,
    decompositions: Functions = MappingProxyType({}),
    activation: torch.dtype = torch.uint8,
) -> GraphPlan:
    """The plan of a core-form graph for kernels with these traits.

    decompositions: what stands for operators that have no kernels. activation: the type of
    quantized values that kernels take, int8 or uint8; others become that. Raises BackendError for a
    decomposition that fails, or for sums of integers that might overflow.
    """
    gm = expanded(gm, batch, decompositions)
    check_integers(gm, noted_shapes(gm, batch))
    gm = with_activations(gm, batch, activation, traits)
    types = noted_shapes(gm, batch)
    needed = _reachable(output_nodes(gm))
    computed = [node for node in gm.graph.nodes if node in needed]
    groups = find_groups(gm, types, traits)
    fused = {n for g in groups for n in (g.anchor, *g.stages) if n is not g.last}
    constants = find_constants(computed, types, fused)
    at_run_time = [node for node in computed if node not in constants]
    padding = find_fused_padding(computed, types, traits)
    return GraphPlan(
        gm,
        batch,
        types,
        tuple(node for node in computed if node not in fused),
        constants,
        MappingProxyType({group.last: group for group in groups}),
        find_in_place(at_run_time, groups, types, traits),
        MappingProxyType(padding),
        MappingProxyType(choose_orders(computed, types, padding, traits)),
        MappingProxyType(_greatest_inputs(gm, types)),
    )


def _greatest_inputs(gm: GraphModule, types: Mapping[Node, Concrete]) -> dict[Node, int]:
    """By layer, what bounds and tables behind its input, and padding, leave possible."""
    proof = IntegerProof(gm, types, {})
    layers = [layer for node in gm.graph.nodes if (layer := integer_layer(node)) is not None]
    return {each.node: max(proof.range(each.input)[1], each.input_zero_point) for each in layers}


def _reachable(outputs: list[Node]) -> set[Node]:
    found, pending = set(outputs), list(outputs)
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                pending.append(source)
    return found
