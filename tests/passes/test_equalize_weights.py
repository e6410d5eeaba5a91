"""Weights are equalised across layers, which per-tensor scales need."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qpc
from benchmarks.stress_networks import uneven_channels
from qpc.base import PassContext
from qpc.errors import ConfigError
from qpc.passes import EqualizeWeights
from qpc.pipeline import Pipeline
from qpc.recipes import post_training_quantization
from qpc.testing import assert_same_output, check_pass, randomized, traced
from tests.quantizing import min_max

X = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def uneven(between: nn.Module) -> nn.Module:
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 1), between, nn.Conv2d(4, 2, 1)))
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(torch.logspace(-1, 1, 4)[:, None, None, None])
    return model


@pytest.mark.thorough
def test_brings_a_network_of_uneven_channels_within_a_point_of_float() -> None:
    stress = uneven_channels()
    gm, batches = qpc.trace(stress.model, stress.images[:2]), stress.calibration.split(32)
    one_scale = min_max(per_channel=False)

    def accuracy(graph: torch.fx.GraphModule) -> float:
        return stress.accuracy(post_training_quantization(batches, one_scale).run(graph))

    expected = stress.accuracy(stress.model)
    assert accuracy(gm) < expected - 10.0
    assert accuracy(Pipeline((EqualizeWeights(),)).run(gm)) >= expected - 1.0


def test_each_channel_has_one_range_in_both_weights() -> None:
    gm = traced(uneven(nn.ReLU()), X)
    result = check_pass(
        EqualizeWeights(),
        gm,
        X,
        declines=["2 (conv2d_1): the model returns it"],
        rtol=1e-4,
        atol=1e-4,  # outputs of about 100
    )
    made = result.get_parameter("0.weight").abs().amax((1, 2, 3))
    read = result.get_parameter("2.weight").abs().amax((0, 2, 3))
    torch.testing.assert_close(made, read, rtol=1e-3, atol=0)  # where sweeps end


def test_clamped_channels_wait_for_data() -> None:
    gm = traced(uneven(nn.ReLU6()), X)
    assert not changed(EqualizeWeights(), gm)
    assert changed(EqualizeWeights([X]), gm)
    result = Pipeline((EqualizeWeights([X]),)).run(gm)
    assert_same_output(gm, result, X, rtol=1e-4, atol=1e-4)  # outputs of about 100


def changed(pass_: EqualizeWeights, gm: torch.fx.GraphModule) -> bool:
    ctx = PassContext()
    Pipeline((pass_,)).run(gm, ctx)
    return ctx.reports[0].changed


def test_a_channel_that_reaches_the_bound_keeps_its_scale() -> None:
    model = uneven(nn.ReLU6())
    with torch.no_grad():
        model.get_parameter("0.bias")[1] = 10.0
    gm = traced(model, X)
    result = Pipeline((EqualizeWeights([X]),)).run(gm)
    before, after = (g.get_parameter("0.weight").detach() for g in (gm, result))
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0], after[0])


def test_zero_weights_and_masks_stay_zero() -> None:
    model = uneven(nn.ReLU())
    with torch.no_grad():
        model.get_parameter("0.weight")[2] = 0.0
    result = Pipeline((EqualizeWeights(),)).run(traced(model, X))
    assert bool((result.get_parameter("0.weight")[2] == 0.0).all())
    assert all(bool(p.isfinite().all()) for p in result.parameters())


def test_options_matter() -> None:
    gm = traced(uneven(nn.ReLU()), X)
    made = [
        Pipeline((EqualizeWeights(sweeps=sweeps, most=most),)).run(gm)
        for sweeps, most in ((20, 1e4), (1, 1.1))
    ]
    assert qpc.fingerprint(made[0]) != qpc.fingerprint(made[1])


def test_refuses_nonsense() -> None:
    with pytest.raises(ConfigError, match="sweeps must be at least 1, got 0"):
        EqualizeWeights(sweeps=0)
    with pytest.raises(ConfigError, match="most must be greater than 1, got 1"):
        EqualizeWeights(most=1)
