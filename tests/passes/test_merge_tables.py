from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, Node

from qpc.calls import qpc_ops
from qpc.meta import info
from qpc.passes import MergeTables
from qpc.shapes import infer_shapes
from qpc.testing import check_pass
from tests.generators import IntegerGraph
from tests.quantizing import converted, fake_quantized
from tests.small_models import nodes_of

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def graph_of(build: Callable[[IntegerGraph, Node], Node | tuple[Node, ...]]) -> GraphModule:
    graph = IntegerGraph()
    made = build(graph, graph.quantize(graph.input(3, 6, 6)))
    outputs = made if isinstance(made, tuple) else (made,)
    gm = graph.module(*map(graph.dequantize, outputs))
    infer_shapes(gm)
    return gm


def test_two_tables_become_one() -> None:
    result = check_pass(
        MergeTables(),
        graph_of(lambda g, q: g.lookup(g.lookup(q))),
        X,
        before="""
            graph:
              %x: f32[N, 3, 6, 6] = input
              %quantize_default: u8[N, 3, 6, 6] = qpc.quantize(%x, 0.02, 120, 0, 255, u8)
              %lookup_default: u8[N, 3, 6, 6] = qpc.lookup(%quantize_default, @constant0)
              %lookup_default_1: u8[N, 3, 6, 6] = qpc.lookup(%lookup_default, @constant1)
              %dequantize_default: f32[N, 3, 6, 6] = qpc.dequantize(%lookup_default_1, 0.02, 120)
              return %dequantize_default
        """,
        after="""
            graph:
              %x: f32[N, 3, 6, 6] = input
              %quantize_default: u8[N, 3, 6, 6] = qpc.quantize(%x, 0.02, 120, 0, 255, u8)
              %lookup_default_2: u8[N, 3, 6, 6] = qpc.lookup(%quantize_default, @tables.lookup_default_1)
              %dequantize_default: f32[N, 3, 6, 6] = qpc.dequantize(%lookup_default_2, 0.02, 120)
              return %dequantize_default
        """,  # noqa: E501
        exact=True,
    )
    assert list(result.state_dict()) == ["tables.lookup_default_1"]


MERGED: dict[str, Callable[[IntegerGraph, Node], Node]] = {
    "a clamp behind a table": lambda g, q: g.clamp(g.lookup(q)),
    "a table behind a clamp": lambda g, q: g.lookup(g.clamp(q)),
    "five of them": lambda g, q: g.lookup(g.clamp(g.lookup(g.lookup(g.clamp(q, 9, 99))))),
}


@pytest.mark.parametrize("name", MERGED)
def test_chains_become_one_table(name: str) -> None:
    result = check_pass(MergeTables(), graph_of(MERGED[name]), X, exact=True)
    assert len(nodes_of(result, qpc_ops.lookup.default)) == 1
    assert not nodes_of(result, qpc_ops.clamp.default)


def test_a_table_that_is_read_twice_stays() -> None:
    gm = graph_of(lambda g, q: (g.lookup(y := g.lookup(q)), y))
    check_pass(
        MergeTables(), gm, X, declines=["lookup_default_1: lookup_default is read by 2 nodes"]
    )


@pytest.mark.parametrize("build", [lambda g, q: g.clamp(g.clamp(q)), lambda g, q: g.lookup(q)])
def test_anything_else_is_left_alone(build: Callable[[IntegerGraph, Node], Node]) -> None:
    check_pass(MergeTables(), graph_of(build), X, declines=[])


@pytest.mark.parametrize("signed", [False, True])
def test_a_function_written_in_steps_is_one_table_with_its_grid_and_value(signed: bool) -> None:
    class Gate(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.exp(-nn.functional.relu6(x + 3) / 6)

    gm = converted(fake_quantized(nn.Sequential(nn.Conv2d(3, 4, 1), Gate()), X, signed=signed))
    last = nodes_of(gm, qpc_ops.lookup.default)[-1]
    result = check_pass(MergeTables(), gm, X, exact=True)
    (merged,) = nodes_of(result, qpc_ops.lookup.default)
    assert (info(merged).qparams, info(merged).value) == (info(last).qparams, info(last).value)
