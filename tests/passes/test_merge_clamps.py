from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.fx import GraphModule, Node

from qpc.calls import aten, qpc_ops
from qpc.meta import info
from qpc.ops.clamp import Clamping
from qpc.passes import MergeClamps
from qpc.shapes import infer_shapes
from qpc.testing import check_pass
from tests.generators import IntegerGraph
from tests.quantizing import converted, fake_quantized
from tests.small_models import nodes_of, only

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def graph_of(build: Callable[[IntegerGraph, Node], Node | tuple[Node, ...]]) -> GraphModule:
    graph = IntegerGraph()
    made = build(graph, graph.quantize(graph.input(3, 6, 6)))
    outputs = made if isinstance(made, tuple) else (made,)
    gm = graph.module(*map(graph.dequantize, outputs))
    infer_shapes(gm)
    return gm


def mean(graph: IntegerGraph, q: Node) -> Node:
    numbers = (120, 0.9, 1.0, 128, 0, 255)
    return graph.call(qpc_ops.mean.default, q, [2, 3], False, *numbers)


def test_the_operator_that_makes_a_value_clamps_it() -> None:
    check_pass(
        MergeClamps(),
        graph_of(lambda g, q: g.clamp(mean(g, q), 3, 200)),
        X,
        before="""
            graph:
              %x: f32[N, 3, 6, 6] = input
              %quantize_default: u8[N, 3, 6, 6] = qpc.quantize(%x, 0.02, 120, 0, 255, u8)
              %mean_default: u8[N, 3] = qpc.mean(%quantize_default, [2, 3], False, 120, 0.9, 1.0, 128, 0, 255)
              %clamp_default: u8[N, 3] = qpc.clamp(%mean_default, 3, 200)
              %dequantize_default: f32[N, 3] = qpc.dequantize(%clamp_default, 0.02, 120)
              return %dequantize_default
        """,  # noqa: E501
        after="""
            graph:
              %x: f32[N, 3, 6, 6] = input
              %quantize_default: u8[N, 3, 6, 6] = qpc.quantize(%x, 0.02, 120, 0, 255, u8)
              %mean_default: u8[N, 3] = qpc.mean(%quantize_default, [2, 3], False, 120, 0.9, 1.0, 128, 3, 200)
              %dequantize_default: f32[N, 3] = qpc.dequantize(%mean_default, 0.02, 120)
              return %dequantize_default
        """,  # noqa: E501
        exact=True,
    )


MERGED: dict[str, Callable[[IntegerGraph, Node], Node]] = {
    "conv2d": lambda g, q: g.clamp(g.conv2d(q, 4)),
    "linear": lambda g, q: g.clamp(g.linear(q, 4)),
    "add": lambda g, q: g.clamp(g.add(q, q)),
    "mul": lambda g, q: g.clamp(g.mul(q, q)),
    "mean": lambda g, q: g.clamp(g.mean(q, (2, 3))),
    "avg_pool2d": lambda g, q: g.clamp(g.avg_pool2d(q, (2, 2), (2, 2))),
    "quantize": lambda g, q: g.clamp(q),
    "clamp": lambda g, q: g.clamp(g.clamp(g.mean(q, (2, 3)), 20, 240), 30, 250),
    "through max_pool2d": lambda g, q: g.clamp(
        g.max_pool2d(g.conv2d(q, 4), (2, 2), (2, 2), (1, 1))
    ),
    "through reshape, permute and slice": lambda g, q: g.clamp(
        g.slice(g.permute(g.reshape(g.conv2d(q, 4), -1, 4, 16), 0, 2, 1), 1, 2, 9)
    ),
    "through select": lambda g, q: g.clamp(g.call(aten.select.int, g.conv2d(q, 4), 1, 2)),
}


@pytest.mark.parametrize("name", MERGED)
def test_every_operator_that_ends_with_a_clamp_takes_another(name: str) -> None:
    result = check_pass(MergeClamps(), graph_of(MERGED[name]), X, exact=True)
    assert nodes_of(result, qpc_ops.clamp.default) == []


points = st.integers(0, 255)


@pytest.mark.thorough
@given(points, points, points, points)
def test_clamps_of_clamps_merge_exactly_even_where_they_do_not_meet(
    a: int, b: int, c: int, d: int
) -> None:
    def build(graph: IntegerGraph, q: Node) -> Node:
        return graph.clamp(graph.clamp(q, min(a, b), max(a, b)), min(c, d), max(c, d))

    gm = graph_of(build)
    result = check_pass(MergeClamps(), gm, 4 * X, exact=True)
    merged = Clamping(only(result, qpc_ops.quantize.default))
    assert 0 <= merged.lo <= merged.hi <= 255


def test_relus_of_a_model_vanish() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU6(), nn.Conv2d(4, 2, 1)
    )
    gm = converted(fake_quantized(model, X))
    result = check_pass(MergeClamps(), gm, X, exact=True)
    assert len(nodes_of(gm, qpc_ops.clamp.default)) == 2
    assert nodes_of(result, qpc_ops.clamp.default) == []


def test_the_producer_stands_for_the_clamped_value() -> None:
    gm = converted(fake_quantized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), X))
    assert info(only(gm, qpc_ops.conv2d.default)).value == "conv2d"
    result = check_pass(MergeClamps(), gm, X, exact=True)
    assert info(only(result, qpc_ops.conv2d.default)).value == "relu"


DECLINED: dict[str, tuple[Callable[[IntegerGraph, Node], Node | tuple[Node, ...]], str]] = {
    "shared producer": (
        lambda g, q: (g.clamp(y := g.mean(q, (2, 3))), y),
        "clamp_default: mean_default is read by 2 nodes",
    ),
    "shared move": (
        lambda g, q: (g.clamp(y := g.reshape(g.mean(q, (2, 3)), -1, 3, 1)), y),
        "clamp_default: reshape_default is read by 2 nodes",
    ),
    "table": (
        lambda g, q: g.clamp(g.lookup(q)),
        "clamp_default: lookup_default does not clamp",
    ),
    "concat": (
        lambda g, q: g.clamp(g.cat(q, q)),
        "clamp_default: cat_default does not clamp",
    ),
    "padding": (
        lambda g, q: g.clamp(g.call(aten.constant_pad_nd.default, g.mul(q, q), [1, 1], 0)),
        "clamp_default: constant_pad_nd_default does not clamp",
    ),
}


@pytest.mark.parametrize("name", DECLINED)
def test_declines_and_says_why(name: str) -> None:
    build, reason = DECLINED[name]
    check_pass(MergeClamps(), graph_of(build), X, declines=[reason], exact=True)


def test_declines_a_clamp_of_a_graph_input() -> None:
    graph = IntegerGraph()
    gm = graph.module(graph.clamp(graph.image(3)))
    infer_shapes(gm)
    x = torch.randint(0, 256, (2, 3), dtype=torch.uint8)
    check_pass(MergeClamps(), gm, x, declines=["clamp_default: x does not clamp"])
