"""The best effort tries what helps, keeps what does, and says so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.analysis.side_by_side import decibels
from qpc.base import PassContext
from qpc.effort import best_quantization
from qpc.errors import CalibrationError, ConfigError
from qpc.recipes import post_training_quantization, quantize
from qpc.testing import randomized
from tests.quantizing import min_max
from tests.rounding import relative_error

X = torch.randn(48, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
    return nn.Sequential(*layers).eval()


@pytest.mark.thorough
def test_the_best_effort_is_better_and_says_what_it_tried() -> None:
    net, batches = model(), list(X.split(16))
    gm = qpc.trace(net, X[:2])
    ctx = PassContext()
    best = quantize(gm, batches, min_max(8, 3), ctx, effort="best")
    fast = quantize(gm, batches, min_max(8, 3), effort="fast")
    gained = decibels(relative_error(best, net, X)) - decibels(relative_error(fast, net, X))
    assert gained > 2.0
    reports = {r.name: r.summary for r in ctx.reports}
    for question, option in (
        ("choose-channel-scales", "EqualizeWeights"),
        ("choose-weight-scales", "FitWeightScales"),
        ("choose-rounding", "LearnRounding"),
        ("choose-corrections", "CorrectBias(full=True)"),
    ):
        assert option in reports[question]
        assert " dB" in reports[question]
    assert "2 of 2" in reports["convert-to-integer"]


def test_the_same_batches_give_the_same_graph_and_a_generator_will_do() -> None:
    gm = qpc.trace(model(), X[:2])
    first = best_quantization(gm, list(X.split(16)), min_max())
    second = best_quantization(gm, (batch for batch in X.split(16)), min_max())
    assert qpc.fingerprint(first) == qpc.fingerprint(second)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layer(x)
        return y * factor, torch.relu(y)


def test_several_inputs_outputs_and_batches_that_cannot_be_joined() -> None:
    batches = [(torch.randn(4, 4), torch.tensor(2.0)) for _ in range(5)]
    gm = qpc.trace(randomized(TwoInputs()), batches[0])
    result = quantize(gm, batches, effort="best")
    assert [tuple(y.shape) for y in result(*batches[0])] == [(4, 3), (4, 3)]


def test_one_sample_is_enough() -> None:
    gm = qpc.trace(model(), X[:2])
    assert quantize(gm, [X[:1]], effort="best")(X).shape == (48, 4)


def test_few_bits_are_fitted_by_default_and_eight_are_not() -> None:
    for bits, expected in (
        (8, ["correct-bias"]),
        (4, ["fit-weight-scales", "match-moments"]),
    ):
        names = [p.name for p in post_training_quantization([X], min_max(8, bits)).passes]
        assert names[-len(expected) :] == expected
    fast = post_training_quantization([X], min_max(8, 4), effort="fast")
    assert fast.passes[-1].name == "fake-quantize"


def test_refuses_other_efforts_and_no_batches() -> None:
    gm = qpc.trace(model(), X[:2])
    with pytest.raises(ConfigError, match="effort must be 'fast', 'default' or 'best', got 'x'"):
        quantize(gm, [X], effort="x")
    with pytest.raises(CalibrationError, match="there are no batches to quantize on"):
        quantize(gm, [], effort="best")
    with pytest.raises(CalibrationError, match="calibration needs an iterable of batches"):
        quantize(gm, X, effort="best")
