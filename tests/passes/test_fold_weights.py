"""Weights that are computed from parameters alone become parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qpc
from qpc.channels.groups import analyze_channels
from qpc.passes import FoldWeights
from qpc.testing import check_pass, randomized, traced


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, w, self.bias)


class OfTheInput(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * x.mean(), self.bias)


class Rows(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight[:2])


IMAGE = torch.randn(1, 2, 3, 3)


def test_a_standardised_weight_is_computed_once() -> None:
    gm = traced(randomized(nn.Sequential(Standardised(2, 4, 1))), IMAGE)
    after = check_pass(
        FoldWeights(),
        gm,
        IMAGE,
        after="""
        graph:
          %input_1: f32[N, 2, 3, 3] = input
          %conv2d: f32[N, 4, 3, 3] = aten.conv2d(%input_1, @0.weight_folded, @0.bias)  # 0
          return %conv2d
        """,
        exact=True,
    )
    assert [name for name, _ in after.named_parameters()] == ["0.bias", "0.weight_folded"]


def test_a_bias_too() -> None:
    class Negative(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight, -self.bias)

    x = torch.randn(1, 2)
    gm = check_pass(FoldWeights(), traced(randomized(Negative(2, 3)), x), x, exact=True)
    assert "bias_folded" in dict(gm.named_parameters())


def test_the_layer_can_be_pruned_then() -> None:
    middle = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
    model = nn.Sequential(nn.Conv2d(2, 4, 1), middle, nn.Conv2d(4, 1, 1))
    gm = traced(randomized(model), IMAGE)
    folded = qpc.Pipeline((FoldWeights(),)).run(gm)
    counts = [[len(g.prunable) for g in analyze_channels(x).groups] for x in (gm, folded)]
    assert counts == [[0, 0], [4, 4, 0]]


def test_declines_a_weight_that_depends_on_the_input() -> None:
    gm = traced(randomized(OfTheInput(2, 4, 1)), IMAGE)
    check_pass(FoldWeights(), gm, IMAGE, declines=["conv2d: mul depends on the input x"])


def test_declines_a_random_weight() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight * torch.ones(3, 2).bernoulli(1.0))

    x = torch.randn(1, 2)
    declines = ["linear: mul goes through bernoulli, which cannot be folded"]
    check_pass(FoldWeights(), traced(randomized(Noisy(2, 3)), x), x, declines=declines)


def test_rows_of_a_parameter_stay_rows() -> None:
    x = torch.randn(1, 2)
    gm = check_pass(FoldWeights(), traced(randomized(Rows(2, 4)), x), x)
    assert [name for name, _ in gm.named_parameters()] == ["weight", "bias"]
