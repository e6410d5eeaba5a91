from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.nn import functional as F

from qpc.base import PassContext
from qpc.calls import aten
from qpc.ops.movement import Dropout
from qpc.passes import RemoveIdentities
from qpc.testing import check_pass, traced
from tests.small_models import Call, graph_of, only

X = torch.linspace(-2, 2, 48).reshape(2, 3, 2, 4)


def test_removes_dropout() -> None:
    check_pass(
        RemoveIdentities(),
        traced(nn.Sequential(nn.Dropout(0.5), nn.ReLU()), X),
        X,
        before="""
            graph:
              %input_1: f32[N, 3, 2, 4] = input
              %dropout: f32[N, 3, 2, 4] = aten.dropout(%input_1, 0.5, False)  # 0
              %relu: f32[N, 3, 2, 4] = aten.relu(%dropout)  # 1
              return %relu
        """,
        after="""
            graph:
              %input_1: f32[N, 3, 2, 4] = input
              %relu: f32[N, 3, 2, 4] = aten.relu(%input_1)  # 1
              return %relu
        """,
        exact=True,
    )


IDENTITIES: dict[str, Callable[[Graph, Node], object]] = {
    "times one": lambda g, x: g.call_function(aten.mul.Tensor, (x, 1)),
    "plus zero": lambda g, x: g.call_function(aten.add.Tensor, (x, 0.0)),
    "minus zero": lambda g, x: g.call_function(aten.sub.Tensor, (x, 0)),
    "by one": lambda g, x: g.call_function(aten.div.Tensor, (x, 1.0)),
    "dropout of nothing": lambda g, x: g.call_function(aten.dropout.default, (x, 0.0, True)),
    "pad by nothing": lambda g, x: g.call_function(aten.constant_pad_nd.default, (x, [0, 0], 0.0)),
    "permute of nothing": lambda g, x: g.call_function(aten.permute.default, (x, [0, 1, 2, 3])),
    "reshape to the same": lambda g, x: g.call_function(aten.reshape.default, (x, [-1, 3, 2, 4])),
    "expand to the same": lambda g, x: g.call_function(aten.expand.default, (x, [-1, 3, -1, -1])),
    "pool over one": lambda g, x: g.call_function(aten.max_pool2d.default, (x, [1, 1])),
}

OTHERS: dict[str, Callable[[Graph, Node], object]] = {
    "times two": lambda g, x: g.call_function(aten.mul.Tensor, (x, 2)),
    "times itself": lambda g, x: g.call_function(aten.mul.Tensor, (x, x)),
    "plus one": lambda g, x: g.call_function(aten.add.Tensor, (x, 1)),
    "pad": lambda g, x: g.call_function(aten.constant_pad_nd.default, (x, [0, 1], 0.0)),
    "permute": lambda g, x: g.call_function(aten.permute.default, (x, [0, 1, 3, 2])),
    "reshape": lambda g, x: g.call_function(aten.reshape.default, (x, [-1, 6, 4])),
    "pool over one, strided": lambda g, x: g.call_function(
        aten.max_pool2d.default, (x, [1, 1], [1, 2])
    ),
    "clamp": lambda g, x: g.call_function(aten.clamp.default, (x, 0, 1)),
}


def between_two_relus(build: Callable[[Graph, Node], object]) -> GraphModule:
    def whole(graph: Graph, x: Node) -> Node:
        first = graph.call_function(aten.relu.default, (x,))
        return graph.call_function(aten.relu.default, (build(graph, first),))  # type: ignore[arg-type]  # arguments of fx

    return graph_of(whole, 3, 2, 4)


@pytest.mark.parametrize("name", IDENTITIES)
def test_removes_what_returns_its_input(name: str) -> None:
    gm = between_two_relus(IDENTITIES[name])
    result = check_pass(RemoveIdentities(), gm, X, exact=True)
    assert len(result.graph.nodes) == 4


@pytest.mark.parametrize("name", OTHERS)
def test_keeps_what_does_something(name: str) -> None:
    gm = between_two_relus(OTHERS[name])
    result = check_pass(RemoveIdentities(), gm, X, exact=True)
    assert len(result.graph.nodes) == 5


def test_keeps_arithmetic_that_changes_the_dtype() -> None:
    gm = graph_of(lambda g, x: g.call_function(aten.add.Tensor, (x, 0.0)), 3, dtype=torch.int64)
    check_pass(RemoveIdentities(), gm, torch.arange(6).reshape(2, 3), exact=True)


def test_removes_identities_of_identities() -> None:
    def function(x: Tensor) -> Tensor:
        return F.dropout(F.dropout(x, 0.5, False) * 1, 0.5, False) + 1

    result = check_pass(RemoveIdentities(), traced(Call(function), X), X, exact=True)
    assert len(result.graph.nodes) == 3


def test_an_identity_may_be_the_output() -> None:
    check_pass(
        RemoveIdentities(),
        traced(nn.Dropout(0.5), X),
        X,
        after="""
            graph:
              %input_1: f32[N, 3, 2, 4] = input
              return %input_1
        """,
        exact=True,
    )


def test_declines_dropout_in_training_mode() -> None:
    gm = traced(nn.Sequential(nn.Dropout(0.5)), X)
    Dropout(only(gm, aten.dropout.default)).train = True
    ctx = PassContext()
    assert not RemoveIdentities().apply(gm, ctx)  # check_pass would compare random outputs
    assert [str(r) for r in ctx.declined] == ["0 (dropout): dropout is in training mode"]
