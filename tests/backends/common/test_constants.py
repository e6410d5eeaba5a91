from __future__ import annotations

import torch
from torch.fx import GraphModule

from qpc.backends.common.constants import find_constants
from qpc.calls import aten
from qpc.shapes import concrete_shapes
from tests.generators import IntegerGraph


def names(gm: GraphModule, *fused: str) -> set[str]:
    nodes = [node for node in gm.graph.nodes if node.op != "output"]
    hidden = {node for node in nodes if node.name in fused}
    return {node.name for node in find_constants(nodes, concrete_shapes(gm, 1), hidden)}


def graph() -> GraphModule:
    g = IntegerGraph()
    constant = g.clamp(g.clamp(g.constant(torch.zeros(1, 2, 3, 3, dtype=torch.uint8))))
    return g.module(g.cat(g.quantize(g.input(2, 3, 3)), constant))


def test_calls_on_parameters_only_are_constants() -> None:
    found = names(graph())
    assert {"clamp_default", "clamp_default_1"} <= found
    assert not {"x", "quantize_default", "cat_default"} & found


def test_what_is_computed_with_another_node_has_no_value() -> None:
    assert not {"clamp_default", "clamp_default_1"} & names(graph(), "clamp_default")


def test_random_numbers_are_no_constants() -> None:
    g = IntegerGraph()
    random = g.call(aten.rand_like.default, g.constant(torch.zeros(1, 2)))
    assert "rand_like_default" not in names(g.module(random))
