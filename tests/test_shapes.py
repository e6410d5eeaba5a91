from __future__ import annotations

import operator

import pytest
import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from qpc.calls import aten
from qpc.errors import PassError
from qpc.meta import NodeInfo, info, update_info
from qpc.shapes import concrete_shapes, infer_node, infer_shapes, noted_shapes
from qpc.testing import traced
from qpc.types import BatchDim, TensorType, format_shape, resolve
from tests.small_models import Call, graph_of, only

N = BatchDim()


def test_dimensions_grow_linearly() -> None:
    assert BatchDim(64).at(3) == 192
    assert BatchDim(1, 1).at(3) == 4
    assert resolve((N, 3, BatchDim(2, -1)), 5) == (5, 3, 9)


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (BatchDim(), "N"),
        (BatchDim(64), "64N"),
        (BatchDim(1, 1), "N+1"),
        (BatchDim(2, -3), "2N-3"),
    ],
)
def test_dimensions_print_as_formulas(dim: BatchDim, text: str) -> None:
    assert str(dim) == text


def test_shapes_print_like_tuples() -> None:
    assert format_shape((N, 3)) == "(N, 3)"
    assert format_shape((N,)) == "(N,)"
    assert format_shape(()) == "()"


def test_inference_finds_how_dimensions_grow() -> None:
    def build(graph: Graph, x: Node) -> Node:
        windows = graph.call_function(aten.reshape.default, (x, [-1, 2, 3]))
        return graph.call_function(aten.constant_pad_nd.default, (windows, [0, 0, 0, 0, 1, 0], 0.0))

    gm = graph_of(build, 8, 3)
    assert info(only(gm, aten.reshape.default)).shape == (BatchDim(4), 2, 3)
    assert info(only(gm, aten.constant_pad_nd.default)).shape == (BatchDim(4, 1), 2, 3)


def test_inference_writes_dtypes() -> None:
    gm = graph_of(lambda g, x: g.call_function(aten.gt.Scalar, (x, 0)), 3)
    assert info(only(gm, aten.gt.Scalar)).dtype is torch.bool


def test_values_that_are_not_one_tensor_have_no_shape() -> None:
    def build(graph: Graph, x: Node) -> Node:
        pair = graph.call_function(aten.max.dim, (x, 1))
        return graph.call_function(operator.getitem, (pair, 1))

    gm = graph_of(build, 3)
    assert info(only(gm, aten.max.dim)).shape is None
    assert info(only(gm, operator.getitem)) == NodeInfo(shape=(N,), dtype=torch.int64)


def test_only_missing_trusts_what_is_known() -> None:
    gm = graph_of(lambda g, x: g.call_function(aten.relu.default, (x,)), 3)
    node = only(gm, aten.relu.default)
    update_info(node, shape=(7,))
    infer_shapes(gm, only_missing=True)
    assert info(node).shape == (7,)
    infer_shapes(gm)
    assert info(node).shape == (N, 3)


def test_a_new_node_is_inferred_from_its_inputs() -> None:
    gm = graph_of(lambda g, x: g.call_function(aten.relu.default, (x,)), 3)
    node = only(gm, aten.relu.default)
    with gm.graph.inserting_after(node):
        new = gm.graph.call_function(aten.unsqueeze.default, (node, 0))
    infer_node(gm, new)
    assert info(new).shape == (1, N, 3)


def test_nothing_missing_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = graph_of(lambda g, x: g.call_function(aten.relu.default, (x,)), 3)
    monkeypatch.setattr("qpc.shapes._fake_mode", None)
    infer_shapes(gm, only_missing=True)


def test_an_operator_that_refuses_its_inputs_is_an_error() -> None:
    with pytest.raises(PassError, match=r"^operator aten\.bmm\.default does not accept its inputs"):
        graph_of(lambda g, x: g.call_function(aten.bmm.default, (x, x)), 3)


def test_a_dimension_must_grow_linearly() -> None:
    def build(graph: Graph, x: Node) -> Node:
        size = graph.call_function(aten.sym_size.int, (x, 0))
        half = graph.call_function(operator.floordiv, (size, 4))
        return graph.call_function(aten.narrow.default, (x, 0, 0, half))

    with pytest.raises(PassError) as caught:
        graph_of(build, 3)
    assert caught.value.what == "a dimension does not grow linearly with the batch size"
    assert str(caught.value.node) == "narrow_default"


def test_concrete_shapes_are_those_at_one_batch_size() -> None:
    def build(graph: Graph, x: Node) -> tuple[Node, ...]:
        size = graph.call_function(aten.sym_size.int, (x, 0))
        pair = graph.call_function(aten.max.dim, (x, 1))
        return (size, pair)

    gm = graph_of(build, 3)
    found = {node.name: value for node, value in concrete_shapes(gm, 7).items()}
    maximum = (TensorType((7,), torch.float32), TensorType((7,), torch.int64))
    assert found == {
        "x": TensorType((7, 3), torch.float32),
        "sym_size_int": 7,
        "max_dim": maximum,
        "output": (7, maximum),
    }


def test_concrete_shapes_of_parameters_and_named_outputs() -> None:
    gm = traced(
        Call(lambda x, w: {"sum": x + w, "none": None}, w=torch.ones(3, dtype=torch.float64)),
        torch.randn(2, 3),
    )
    found = {node.name: value for node, value in concrete_shapes(gm, 4).items()}
    assert found["w"] == TensorType((3,), torch.float64)
    assert found["output"] == (TensorType((4, 3), torch.float64), None)


def test_no_memory_is_used_for_large_values() -> None:
    huge = 10**6
    gm = graph_of(lambda g, x: g.call_function(aten.relu.default, (x,)), huge, huge)
    assert concrete_shapes(gm, 100)[only(gm, aten.relu.default)] == TensorType(
        (100, huge, huge), torch.float32
    )


def test_deep_graphs_are_no_problem() -> None:
    graph = Graph()
    node = x = graph.placeholder("x")
    update_info(x, shape=(N, 3), dtype=torch.float32)
    for _ in range(1500):
        node = graph.call_function(aten.relu.default, (node,))
    graph.output(node)
    gm = GraphModule(nn.Module(), graph)
    infer_node(gm, node)
    assert info(node).shape == (N, 3)


def test_an_input_without_a_shape_has_an_unknown_one() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    graph.output(x)
    assert set(concrete_shapes(GraphModule(nn.Module(), graph), 2).values()) == {None}


@pytest.mark.parametrize("batch", [1, 4])
def test_noted_shapes_are_the_concrete_ones(batch: int) -> None:
    def build(graph: Graph, x: Node) -> object:
        (first, _) = (
            graph.call_function(
                operator.getitem, (graph.call_function(aten.split.Tensor, (x, 2, 1)), i)
            )
            for i in (0, 1)
        )
        return {"first": first, "both": [x, first]}

    gm = graph_of(build, 4)
    assert noted_shapes(gm, batch) == concrete_shapes(gm, batch)


def test_noted_shapes_run_no_operator_whose_shape_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = graph_of(lambda g, x: g.call_function(aten.relu.default, (x,)), 4)
    expected = concrete_shapes(gm, 3)
    monkeypatch.setattr("qpc.shapes.FakeTensorMode", None)
    assert noted_shapes(gm, 3) == expected
