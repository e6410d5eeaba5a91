"""Whether weights are rounded up or down is learned from what comes out (AdaRound)."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from qpc.errors import CalibrationError, ConfigError
from qpc.passes import LearnRounding
from tests.quantizing import min_max
from tests.rounding import (
    Kinds,
    Tied,
    check_pairs_stay_safe,
    check_points_and_zeros,
    differing_steps,
    relative_error,
    rounded,
    run,
    stress,
    stressed,
)


@pytest.mark.thorough
def test_is_worth_five_points_at_four_bits_where_inputs_share_a_strong_component() -> None:
    network, (gm, batches) = stress(), stressed()
    better, _ = run(gm, LearnRounding(batches, samples=128))
    assert network.accuracy(better) >= network.accuracy(gm) + 5.0


@pytest.mark.thorough
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_outputs_of_all_kinds_of_layers_come_nearer(per_channel: bool) -> None:
    model = Kinds()
    gm, batches = rounded(model, config=min_max(8, 4, per_channel=per_channel))
    better, ctx = run(gm, LearnRounding(batches, steps=100))
    assert relative_error(better, model) < 0.7 * relative_error(gm, model)
    assert ctx.reports[0].summary == "5 layers rounded"
    assert differing_steps(better) < 0.02  # a step of the output's grid


def test_pairs_stay_safe() -> None:
    check_pairs_stay_safe(lambda batches: LearnRounding(batches, samples=8, steps=20))


def test_weights_lie_on_grid_points_and_masked_ones_at_zero() -> None:
    check_points_and_zeros(partial(LearnRounding, steps=100))


def test_declines_shared_weights_and_more_bits() -> None:
    gm, batches = rounded(Tied(), torch.randn(16, 6))
    _, ctx = run(gm, LearnRounding(batches, steps=100))
    assert [r.text for r in ctx.declined] == ["'second.weight' is shared"] * 2
    gm, batches = rounded(Kinds())
    _, ctx = run(gm, LearnRounding(batches, bits=3))
    assert {r.text for r in ctx.declined} == {"its weights have 4 bits"}


def test_refuses_nonsense() -> None:
    with pytest.raises(ConfigError, match="samples must be at least 1, got 0"):
        LearnRounding([], samples=0)
    with pytest.raises(ConfigError, match="rate must be greater than 0, got 0"):
        LearnRounding([], rate=0)
    with pytest.raises(ConfigError, match="regulariser must be at least 0, got -1"):
        LearnRounding([], regulariser=-1)
    gm, _ = rounded(Kinds())
    with pytest.raises(CalibrationError, match="there are no batches to learn rounding on"):
        run(gm, LearnRounding([]))
