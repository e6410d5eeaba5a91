from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F

import qpc
from qpc.base import PassContext
from qpc.calls import aten, qpc_ops
from qpc.passes import LiftConv1d, MaskWeights
from qpc.testing import assert_same_output, check_pass, randomized, traced
from tests.small_models import Call, nodes_of

X = torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(0))


def test_lifts_a_convolution() -> None:
    check_pass(
        LiftConv1d(),
        traced(nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), X),
        X,
        before="""
            graph:
              %input_1: f32[N, 4, 20] = input
              %conv1d: f32[N, 6, 10] = aten.conv1d(%input_1, @weight, None, [2], [1], [1], 2)
              return %conv1d
        """,
        after="""
            graph:
              %input_1: f32[N, 4, 20] = input
              %reshape_default: f32[N, 4, 1, 20] = aten.reshape(%input_1, [-1, 4, 1, 20])
              %conv2d_default: f32[N, 6, 1, 10] = aten.conv2d(%reshape_default, @weight, None, \
[1, 2], [0, 1], [1, 1], 2)
              %reshape_default_1: f32[N, 6, 10] = aten.reshape(%conv2d_default, [-1, 6, 10])
              return %reshape_default_1
        """,
    )


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 5, dilation=3),
        nn.Conv1d(4, 4, 3, padding="same", groups=4),
        nn.MaxPool1d(3, 2, padding=1, dilation=2, ceil_mode=True),
        nn.MaxPool1d(4),
        nn.AvgPool1d(3, 2, padding=1, count_include_pad=False),
        nn.AvgPool1d(3, 2, ceil_mode=True),
        nn.AdaptiveAvgPool1d(5),
    ],
)
def test_lifts_with_every_option(layer: nn.Module) -> None:
    result = check_pass(LiftConv1d(), traced(layer, X), X)
    made = (aten.conv2d.default, aten.max_pool2d.default, aten.avg_pool2d.default)
    assert sum(len(nodes_of(result, target)) for target in made) == 1


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_paddings_with_values_of_the_input_are_lifted_and_become_integer(mode: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv1d(4, 6, 3), nn.Conv1d(6, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(F.pad(self.first(x), (2, 1), mode))
            return y

    gm = traced(randomized(Model()), X)
    check_pass(LiftConv1d(), gm, X)
    result = qpc.quantize(gm, [X])
    assert not nodes_of(result, aten.pad.default)
    assert len(nodes_of(result, qpc_ops.resize2d.default)) == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.interpolate(x, scale_factor=2.0),
        lambda x: F.interpolate(x, 33, mode="nearest-exact"),
        lambda x: F.interpolate(x, scale_factor=1.7, mode="linear"),
        lambda x: F.interpolate(x, 31, mode="linear", align_corners=True),
    ],
)
def test_resizing_is_lifted_and_becomes_integer(function: Any) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv1d(4, 6, 3), nn.Conv1d(6, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(function(self.first(x)))
            return y

    gm = traced(randomized(Model()), X)
    check_pass(LiftConv1d(), gm, X)
    assert len(nodes_of(qpc.quantize(gm, [X]), qpc_ops.resize2d.default)) == 1


class Recurrent(nn.Module):
    """One weight, read three times."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.a(self.a(x)))
        return y


def test_a_shared_weight_stays_shared() -> None:
    result = check_pass(LiftConv1d(), traced(Recurrent(), X), X)
    weights = [n.args[1] for n in nodes_of(result, aten.conv2d.default)]
    assert len(weights) == 3
    assert len({str(w.target) for w in weights if isinstance(w, Node)}) == 1


def test_a_mask_gets_the_shape_of_its_weight() -> None:
    from qpc.pruning.weight_rules import Ratio

    masked = qpc.Pipeline((MaskWeights(Ratio(0.5)),)).run(traced(nn.Conv1d(4, 6, 3), X))
    result = check_pass(LiftConv1d(), masked, X)
    assert result.get_buffer("weight_masks.weight").shape == (6, 4, 1, 3)


def weight_is_an_input(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv1d(x, weight * 2)


class AddsItsWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x) + self.conv.weight.sum()
        return y


@pytest.mark.parametrize(
    ("model", "inputs", "reason"),
    [
        (nn.Conv1d(4, 6, 3), (X[0],), "conv1d: it has no batch axis"),
        (nn.MaxPool1d(2), (X[0],), "max_pool1d: it has no batch axis"),
        (
            Call(weight_is_an_input),
            (X, torch.ones(2, 4, 3)),
            "conv1d: its weight mul is computed from the input others_0",
        ),
        (AddsItsWeight(), (X,), "conv (conv1d): its weight is read by sum_1 too"),
    ],
)
def test_declines(model: nn.Module, inputs: tuple[Tensor, ...], reason: str) -> None:
    check_pass(LiftConv1d(), traced(model, *inputs), inputs, declines=[reason])


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(4, 8, 5, stride=2, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)
        )
        self.block = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y: Tensor = self.head(x + F.hardswish(self.block(x)))
        return y


def test_transposed_convolutions_with_their_batch_norms_too() -> None:
    layers = (
        nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        nn.BatchNorm1d(6),
        nn.ReLU(),
    )
    after = check_pass(LiftConv1d(), traced(randomized(nn.Sequential(*layers)), X), X)
    (layer,) = nodes_of(after, aten.conv_transpose2d.input)
    assert layer.args[3:] == ([1, 2], [0, 1], [0, 1], 2, [1, 2])
    assert nodes_of(after, aten.batch_norm.default)[0].args[0] is layer


@pytest.mark.thorough
def test_a_network_over_one_axis_is_quantized_as_a_whole() -> None:
    model, ctx = randomized(Network()), PassContext()
    gm = traced(model, X)
    integer = qpc.quantize(gm, [X], ctx=ctx)
    summaries = [report.summary for report in ctx.reports]
    assert "3 of 3 convolution and linear layers quantized" in summaries
    assert not nodes_of(integer, aten.relu.default)
    assert len(nodes_of(integer, qpc_ops.linear_float.default)) == 1
    assert qpc.compare(gm, integer, X).outputs[0].sqnr_db > 25
    assert_same_output(integer, qpc.compile(integer, batch_sizes=(3,)), X, exact=True)


def test_a_batch_norm_behind_a_convolution_gets_a_height_too() -> None:
    x = torch.randn(2, 3, 8)
    gm = traced(randomized(nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU())), x)
    result = check_pass(LiftConv1d(), gm, x)
    (norm,) = nodes_of(result, aten.batch_norm.default)
    assert isinstance(norm.args[0], Node)
    assert norm.args[0].target is aten.conv2d.default
