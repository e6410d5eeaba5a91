"""Means and spreads of channels that rounding has changed are restored."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qpc.errors import ConfigError
from qpc.passes import FitWeightScales, MatchMoments
from qpc.quant.config import LayerConfig, QuantConfig, WeightConfig
from qpc.quant.observers import MSE
from tests.quantizing import min_max
from tests.rounding import Kinds, Tied, differing_steps, relative_error, rounded, run

CLIPPED = QuantConfig(default=LayerConfig(weight=WeightConfig(bits=3, observer=MSE())))


@pytest.mark.every(2)
@pytest.mark.parametrize("gain", ["least-squares", "variance"])
def test_clipped_weights_shrink_outputs_no_longer(gain: str) -> None:
    model = Kinds()
    gm, batches = rounded(model, config=CLIPPED)
    matched, ctx = run(gm, MatchMoments(batches, gain=gain))
    assert relative_error(matched, model) < 0.6 * relative_error(gm, model)
    assert ctx.reports[0].summary == "5 layers corrected"
    assert differing_steps(matched) < 0.02  # a step of the output's grid


def test_variance_is_what_is_asked_for() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 4)).eval()
    x = torch.randn(400, 16)
    gm, _ = rounded(model, x, min_max(8, 2))
    matched, _ = run(gm, MatchMoments([x], 400, "variance"))
    with torch.no_grad():
        made, wanted = matched(x), model(x)
    torch.testing.assert_close(made.std(0), wanted.std(0), rtol=0.02, atol=0)  # outputs are rounded
    torch.testing.assert_close(made.mean(0), wanted.mean(0), rtol=0, atol=0.02)


@pytest.mark.parametrize("gain", ["least-squares", "variance"])
def test_outputs_that_do_not_vary_have_no_spread_to_restore(gain: str) -> None:
    model = nn.Sequential(nn.Linear(6, 3)).eval()
    gm, batches = rounded(model, torch.randn(1, 6), min_max(8, 2))
    _, ctx = run(gm, MatchMoments(batches, gain=gain))
    assert [r.text for r in ctx.reports[0].changes] == ["gains from 1.000 to 1.000"]


def test_one_scale_for_all_channels_gets_one_gain() -> None:
    gm, batches = rounded(Kinds(), config=min_max(8, 3, per_channel=False))
    matched, ctx = run(gm, MatchMoments(batches))
    for remark in ctx.reports[0].changes:
        _, _, first, _, last = remark.text.split()
        assert first == last
    assert len(ctx.reports[0].changes) == 5
    assert matched is not gm


@pytest.mark.thorough
def test_masked_weights_stay_zero_and_points_stay_the_same() -> None:
    model = Kinds()
    with torch.no_grad():
        model.linear.weight[:, ::2] = 0.0
    gm, batches = rounded(model)
    matched, _ = run(gm, MatchMoments(batches))
    assert bool((matched.get_parameter("linear.weight")[:, ::2] == 0.0).all())


def test_a_reference_is_aimed_at_instead_of_the_present_weights() -> None:
    model = nn.Sequential(nn.Linear(6, 3)).eval()
    x = torch.randn(64, 6)
    gm, batches = rounded(model, x)
    reference, _ = rounded(model, x)
    with torch.no_grad():
        gm.get_parameter("0.weight").mul_(0.7)
    by_itself, _ = run(gm, MatchMoments(batches))
    aimed, _ = run(gm, MatchMoments(batches, reference=reference))
    assert relative_error(aimed, model, x) < 0.1 * relative_error(by_itself, model, x)


def test_works_behind_fitted_scales_too() -> None:
    model = Kinds()
    gm, batches = rounded(model)
    both, _ = run(gm, FitWeightScales(batches), MatchMoments(batches))
    assert relative_error(both, model) < 0.6 * relative_error(gm, model)


def test_declines_shared_weights() -> None:
    gm, batches = rounded(Tied(), torch.randn(16, 6))
    _, ctx = run(gm, MatchMoments(batches))
    assert [r.text for r in ctx.declined] == ["'second.weight' is shared"] * 2


def test_refuses_other_gains() -> None:
    with pytest.raises(ConfigError, match="gain must be 'least-squares' or 'variance', got 'x'"):
        MatchMoments([], gain="x")
