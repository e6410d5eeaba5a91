"""Differences between channels move from activations into weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.errors import CalibrationError, ConfigError
from qpc.passes import SmoothActivations
from qpc.pipeline import Pipeline
from qpc.recipes import post_training_quantization
from qpc.testing import check_pass, randomized, traced
from tests.quantizing import min_max
from tests.rounding import relative_error

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def outliers() -> nn.Module:
    """A norm, two of whose channels are a hundred times larger than the others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        model.get_parameter("0.weight")[:2] *= 100.0
        model.get_parameter("1.weight")[:, :2] /= 100.0
    return model


def test_a_few_channels_of_large_range_no_longer_spoil_the_grid() -> None:
    model = outliers()
    gm = qpc.trace(model, X[:2])
    smoothed = Pipeline((SmoothActivations([X]),)).run(gm)
    errors = [
        relative_error(post_training_quantization([X], min_max()).run(g), model, X)
        for g in (gm, smoothed)
    ]
    assert errors[1] < 0.1 * errors[0]


def test_the_output_is_kept_and_the_reasons_said() -> None:
    check_pass(
        SmoothActivations([X]),
        traced(outliers(), X),
        X,
        declines=["3 (linear_1): the model returns it"],
        idempotent=False,  # weights that have changed are weighed anew
    )


def test_the_strength_says_what_becomes_alike() -> None:
    model = outliers()
    with torch.no_grad():
        model.get_parameter("1.weight")[:, :2] *= 100.0
    gm = qpc.trace(model, X[:2])

    def spread(strength: float) -> float:
        result = Pipeline((SmoothActivations([X], strength),)).run(gm)
        gains: Tensor = result.get_parameter("0.weight").detach().abs()
        return float(gains.max() / gains.min())

    assert 2.0 * spread(1.0) < spread(0.5) < 0.5 * spread(0.0)


def test_channels_that_are_clamped_grow_up_to_the_bound() -> None:
    model = randomized(nn.Sequential(nn.Linear(16, 8), nn.ReLU6(), nn.Linear(8, 4)))
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(0.2 * torch.logspace(-1, 0, 8)[:, None])
        model.get_parameter("0.bias").zero_()
    gm = traced(model, X)
    smoothed = Pipeline((SmoothActivations([X], 1.0),)).run(gm)
    with torch.no_grad():
        torch.testing.assert_close(smoothed(X), gm(X), rtol=1e-4, atol=1e-4)
    weights = [g.get_parameter("0.weight").detach().abs() for g in (gm, smoothed)]
    assert float((weights[1] / weights[0]).max()) > 2.0


def test_refuses_nonsense() -> None:
    with pytest.raises(ConfigError, match="strength must be from 0 to 1, got 2"):
        SmoothActivations([X], 2)
    with pytest.raises(CalibrationError, match="there are no batches to smooth-activations on"):
        Pipeline((SmoothActivations([]),)).run(qpc.trace(outliers(), X[:2]))
    with pytest.raises(CalibrationError, match=r"the values of .* are not finite"):
        Pipeline((SmoothActivations([X * torch.nan]),)).run(qpc.trace(outliers(), X[:2]))


class Stream(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(16, 8), nn.Linear(8, 8)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.first(x).relu()
        made: Tensor = self.last((self.inner(stream) + stream).relu())
        return made


def uneven() -> nn.Module:
    """A stream whose channels have ranges from 1 to 30, which the layers that read them undo."""
    model = randomized(Stream())
    ranges = torch.logspace(0, 1.5, 8)
    with torch.no_grad():
        for name in ("first", "inner"):
            model.get_parameter(f"{name}.weight").mul_(ranges[:, None])
            model.get_parameter(f"{name}.bias").mul_(ranges)
        for name in ("inner", "last"):
            model.get_parameter(f"{name}.weight").div_(ranges)
    return model


def test_without_a_strength_channels_are_scaled_as_rounding_harms_least() -> None:
    model = uneven()
    gm = traced(model, X)
    smoothed = Pipeline((SmoothActivations([X], None),)).run(gm)
    with torch.no_grad():
        torch.testing.assert_close(smoothed(X), gm(X), rtol=1e-4, atol=1e-4)
    errors = [
        relative_error(post_training_quantization([X], min_max()).run(g), model, X)
        for g in (gm, smoothed)
    ]
    assert errors[1] < 0.3 * errors[0]


def test_without_a_strength_the_output_is_kept_on_data_that_was_not_seen() -> None:
    model = randomized(
        nn.Sequential(nn.Linear(16, 8), nn.ReLU6(), nn.Linear(8, 8), nn.Linear(8, 4))
    )
    gm = traced(model, X)
    smoothed = Pipeline((SmoothActivations([0.01 * X], None),)).run(gm)
    with torch.no_grad():
        torch.testing.assert_close(smoothed(100.0 * X), gm(100.0 * X), rtol=1e-4, atol=1e-3)
    assert torch.equal(smoothed.get_parameter("0.weight"), gm.get_parameter("0.weight"))
    assert not torch.equal(smoothed.get_parameter("2.weight"), gm.get_parameter("2.weight"))
