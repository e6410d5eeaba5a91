"""Weights that are computed from parameters alone become parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qpc
from qpc.channels.groups import analyze_channels
from qpc.errors import ConfigError
from qpc.passes import FoldWeights
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1
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


class OfTwo(nn.Module):
    """A layer by the transpose of a parameter, and attention over two sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.w.t())
        out: Tensor = self.attention(y, y.relu(), y.relu(), need_weights=False)[0]
        return out


def test_pieces_and_transposes_become_parameters_where_that_is_asked_for() -> None:
    x = torch.randn(2, 3, 4)
    gm = traced(randomized(OfTwo()), x)
    check_pass(FoldWeights(), gm, x, exact=True)
    after = check_pass(FoldWeights(operands=True), gm, x)
    names = [name for name, _ in after.named_parameters()]
    weights = [f"attention.in_proj_weight_folded{n}" for n in ("", "_1")]
    assert {"w_folded", *weights} < {*names}
    ctx = qpc.PassContext()
    qpc.quantize(gm, [x], ctx=ctx)
    assert "5 of 5 convolution and linear layers quantized" in str(ctx.reports[-3])


class Mixed(nn.Module):
    """`x + d(x) * g`, of which g is stored flat, behind a mixture whose weights are a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1)
        self.g, self.shares = nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.second(x) * self.g.view(1, -1, 1, 1)
        shares = self.shares.softmax(0)
        return x * shares[0] + x.relu() * shares[1]


def test_what_other_operators_read_stays_computed_unless_asked_for() -> None:
    gm = traced(randomized(Mixed()), IMAGE)
    check_pass(FoldWeights(), gm, IMAGE, exact=True)
    after = check_pass(FoldWeights(operands=True), gm, IMAGE, exact=True)
    folded = [name for name, _ in after.named_parameters() if "_folded" in name]
    assert folded == ["g_folded", "shares_folded", "shares_folded_1"]
    calls = [str(n.target) for n in after.graph.nodes if n.op == "call_function"]
    assert not any("softmax" in call or "reshape" in call for call in calls)


def test_dropout_of_what_parameters_decide_does_nothing_at_inference() -> None:
    class Positions(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + F.dropout(self.weight.t() * 2, 0.5, self.training)[0]

    x = torch.randn(1, 3)
    gm = traced(randomized(Positions(3, 3)), x)
    after = check_pass(FoldWeights(operands=True), gm, x, exact=True)
    assert "weight_folded" in dict(after.named_parameters())
    assert not any("dropout" in n.name for n in after.graph.nodes)


def test_quantization_and_pruning_see_computed_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Standardised(2, 8, 1), nn.ReLU(), Standardised(8, 4, 1))
    gm = traced(randomized(model), IMAGE)
    ctx = qpc.PassContext()
    quantized = qpc.quantize(gm, [IMAGE], ctx=ctx)
    assert "2 of 2 convolution and linear layers quantized" in str(ctx.reports[-3])
    assert not any("div" in str(n.target) for n in quantized.graph.nodes)
    pruned = qpc.prune(gm, L1(), Uniform(0.5))
    assert dict(pruned.named_parameters())["0.weight_folded"].shape == (4, 2, 1, 1)


def test_operands_must_be_true_or_false() -> None:
    with pytest.raises(ConfigError, match="operands must be True or False, got int"):
        FoldWeights(operands=1)  # type: ignore[arg-type]  # what is tested
