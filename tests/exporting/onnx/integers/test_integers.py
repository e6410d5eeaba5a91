"""ONNX's own reference computes the very integers of the graph, as does ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, Node

from tests.exporting.nets import as_onnx, images, integer_residual, kinds, ran, read
from tests.generators import IntegerGraph, random_graph, random_inputs
from tests.quantizing import fake_quantized, integer
from tests.signed import signed

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

Build = Callable[[IntegerGraph, Node], Node]

OPERATORS: dict[str, tuple[Build, set[str]]] = {
    "conv2d": (lambda g, q: g.conv2d(q, 6, padding=(1, 2), stride=(2, 1)), {"ConvInteger"}),
    "groups": (lambda g, q: g.conv2d(q, 8, groups=4, dilation=(1, 2)), {"ConvInteger"}),
    "linear": (lambda g, q: g.linear(q, 5), {"MatMulInteger"}),
    "transposed": (
        lambda g, q: g.conv_transpose2d(q, 6, stride=(2, 3), padding=(1, 0), groups=2),
        {"ConvInteger", "Slice"},
    ),
    "transposed and cut": (
        lambda g, q: g.conv_transpose2d(q, 3, (1, 2), padding=(1, 1), output_padding=(0, 0)),
        {"ConvInteger", "Pad"},
    ),
    "add": (lambda g, q: g.add(q, g.lookup(q)), {"Div", "Gather"}),
    "conv2d and add": (
        lambda g, q: g.joined(g.conv2d(q, 4, padding=(1, 1)), q),
        {"ConvInteger", "Clip"},
    ),
    "transposed and add": (
        lambda g, q: g.joined(g.conv_transpose2d(q, 4, padding=(1, 1)), q),
        {"ConvInteger", "Clip"},
    ),
    "linear and add": (lambda g, q: g.joined(g.linear(q, 6), q), {"MatMulInteger", "Clip"}),
    "mul": (lambda g, q: g.mul(q, g.mean(q, (2, 3), True)), {"ReduceSum", "Mul"}),
    "sum": (lambda g, q: g.sum(q, (1, 2)), {"ReduceSum"}),
    "max": (lambda g, q: g.max_pool2d(q, (3, 2), (2, 1), (1, 0)), {"MaxPool"}),
    "average": (lambda g, q: g.avg_pool2d(q, (2, 3), (2, 1), (1, 1)), {"ConvInteger"}),
    "linear resize": (lambda g, q: g.resize2d(q, 9, 4, linear=True), {"Gather", "Div"}),
    "nearest": (lambda g, q: g.resize2d(q, 9, 4, linear=False), {"Gather"}),
    "clamp": (lambda g, q: g.clamp(q), {"Clip"}),
    "extremes": (lambda g, q: g.conv2d(q, 6, extreme=True), {"ConvInteger"}),
    "floats": (lambda g, q: g.quantize(g.dequantize(q), 0.03, 100), {"Round", "Where"}),
}


@pytest.mark.parametrize(
    "layer",
    [
        nn.PReLU(4),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d((2, 3), 2, (0, 1), ceil_mode=True),
    ],
)
def test_slopes_and_counted_pools_are_exact(layer: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 6)
    gm = integer(fake_quantized(nn.Sequential(nn.Conv2d(4, 4, 1), layer), x))
    assert torch.equal(ran(as_onnx(gm, "integer"), x)[0], gm(x))


def graph(name: str) -> GraphModule:
    build, _ = OPERATORS[name]
    g = IntegerGraph(1)
    return g.module(build(g, g.image(4, 7, 6)))


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("kind", ["unsigned", "signed"])
def test_every_operator_is_exact(name: str, kind: str) -> None:
    gm = graph(name) if kind == "unsigned" else signed(graph(name))
    model = as_onnx(gm, "integer")
    assert OPERATORS[name][1] <= set(kinds(model))
    x = torch.randint(0, 256, (2, 4, 7, 6), generator=torch.Generator().manual_seed(2))
    x = x.to(torch.uint8) if kind == "unsigned" else (x - 128).to(torch.int8)
    (expected,) = read(gm, x)
    assert torch.equal(ran(model, x)[0], expected)


def test_nan_and_infinity_are_rounded_as_the_graph_does() -> None:
    g = IntegerGraph()
    gm = g.module(g.quantize(g.input(4)))
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.03]])
    assert torch.equal(ran(as_onnx(gm, "integer"), x)[0], gm(x))


def test_a_whole_network_is_exact_in_the_reference_of_onnx() -> None:
    gm = integer_residual()
    model = as_onnx(gm, "integer")
    assert torch.equal(ran(model, images(2), exact=True)[0], gm(images(2)))
    assert torch.equal(ran(model, images(2))[0], gm(images(2)))


def check(seed: int, change: Callable[[GraphModule], GraphModule] = lambda gm: gm) -> None:
    gm = change(random_graph(seed))
    model: Any = as_onnx(gm, "integer")
    for batch in (1, 3):
        inputs = random_inputs(gm, batch)
        for found, expected in zip(ran(model, *inputs), read(gm, *inputs), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.every(15)
@pytest.mark.parametrize("seed", range(30))
def test_random_networks_are_exact_at_any_batch_size(seed: int) -> None:
    check(seed)


@pytest.mark.every(10)
@pytest.mark.parametrize("seed", range(10))
def test_random_networks_of_signed_integers_are_exact(seed: int) -> None:
    check(seed, signed)
