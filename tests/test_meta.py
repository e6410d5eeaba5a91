from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from qpc.meta import (
    NodeInfo,
    attribute,
    copied,
    info,
    inherit,
    label,
    update_info,
    value_name,
)


def relu() -> Node:
    graph = Graph()
    return graph.call_function(torch.ops.aten.relu.default, (graph.placeholder("x"),))


def test_a_node_without_a_record_has_an_empty_one() -> None:
    assert info(relu()) == NodeInfo()


def test_updates_replace_fields_and_return_the_record() -> None:
    node = relu()
    update_info(node, module_path="a.b")
    assert update_info(node, dtype=torch.int8) == NodeInfo(module_path="a.b", dtype=torch.int8)
    assert info(node).module_path == "a.b"


def test_records_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        info(relu()).module_path = "a"  # type: ignore[misc]  # wrong on purpose


def test_copies_of_a_graph_do_not_see_each_others_updates() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    graph.output(x)
    update_info(x, module_path="before")
    gm = GraphModule(nn.Module(), graph)
    twin = copied(gm)
    update_info(next(iter(twin.graph.nodes)), module_path="after")
    assert info(next(iter(gm.graph.nodes))).module_path == "before"


def test_a_copy_shares_no_tensor_and_leaves_the_same_buffers_out_of_state_dictionaries() -> None:
    root, graph = nn.Module(), Graph()
    root.register_buffer("kept", torch.zeros(1))
    root.register_buffer("transient", torch.zeros(1), persistent=False)
    graph.output([graph.get_attr("kept"), graph.get_attr("transient")])
    gm = GraphModule(root, graph)
    gm._non_persistent_buffers_set = {"transient"}
    twin = copied(gm)
    assert list(twin.state_dict()) == list(gm.state_dict()) == ["kept"]
    attribute(twin, "transient").add_(1)
    assert attribute(gm, "transient").item() == 0


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        update_info(relu(), colour="red")


def test_new_nodes_inherit_module_and_line_but_not_the_rest() -> None:
    old, new = relu(), relu()
    update_info(old, module_path="layer1.0", dtype=torch.float32)
    old.stack_trace = 'File "net.py", line 7, in forward'
    inherit(new, old, origin="some-pass")
    assert info(new) == NodeInfo(module_path="layer1.0", origin="some-pass")
    assert new.stack_trace == old.stack_trace


def test_new_nodes_inherit_no_line_where_there_is_none() -> None:
    old, new = relu(), relu()
    inherit(new, old, origin="some-pass")
    assert new.stack_trace is None


def test_attributes_are_found_by_dotted_name() -> None:
    gm = nn.Sequential(nn.Linear(2, 3))
    graph = GraphModule(gm, _returning_input())
    graph.add_module("0", gm[0])
    assert attribute(graph, "0.weight") is gm[0].weight
    with pytest.raises(AttributeError):
        attribute(graph, "0.nothing")


def test_an_attribute_must_be_a_tensor() -> None:
    graph = GraphModule(nn.Module(), _returning_input())
    graph.size = 3  # type: ignore[assignment]  # wrong on purpose
    with pytest.raises(TypeError, match=r"^attribute 'size' is int, not a tensor$"):
        attribute(graph, "size")


def test_labels_name_the_module_where_there_is_one() -> None:
    node = relu()
    assert label(node) == "relu_default"
    update_info(node, module_path="layer1.0")
    assert label(node) == "layer1.0 (relu_default)"


def test_nodes_of_the_traced_model_name_their_own_value() -> None:
    node = relu()
    assert value_name(node) == "relu_default"
    update_info(node, value="relu")
    assert value_name(node) == "relu"


def test_nodes_that_passes_make_stand_for_no_value_unless_they_say_so() -> None:
    node = relu()
    update_info(node, origin="some-pass")
    assert value_name(node) is None


def _returning_input() -> Graph:
    graph = Graph()
    graph.output(graph.placeholder("x"))
    return graph
