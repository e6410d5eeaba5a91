from __future__ import annotations

from torch.fx import Graph

from qpc.backends.common.traits import StageKind, Traits, TraitTable, traits_of
from qpc.calls import aten, qpc_ops

TABLE: TraitTable = {qpc_ops.clamp.default: Traits(stage=StageKind.CLAMP)}


def test_traits_belong_to_the_operator_that_a_node_calls() -> None:
    node = Graph().call_function(qpc_ops.clamp.default)
    assert traits_of(node, TABLE).stage is StageKind.CLAMP


def test_nothing_is_assumed_of_other_operators() -> None:
    graph = Graph()
    for node in (graph.placeholder("x"), graph.call_function(aten.relu.default)):
        assert traits_of(node, TABLE) == Traits()
