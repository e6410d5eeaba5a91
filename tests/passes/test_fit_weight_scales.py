"""Scales of weights are chosen by the error that they make in the outputs."""

from __future__ import annotations

import pytest
import torch

import qpc
from qpc.errors import CalibrationError, ConfigError
from qpc.meta import attribute
from qpc.passes import FitWeightScales
from qpc.quant.config import LayerConfig, QuantConfig, WeightConfig
from qpc.quant.pairs import are_safe
from qpc.recipes import to_integer
from tests.quantizing import min_max
from tests.rounding import (
    Kinds,
    Tied,
    differing_steps,
    integer_weights,
    relative_error,
    rounded,
    run,
)


@pytest.mark.every(2)
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_outputs_of_all_kinds_of_layers_come_nearer(per_channel: bool) -> None:
    model = Kinds()
    gm, batches = rounded(model, config=min_max(8, 4, per_channel=per_channel))
    fitted, ctx = run(gm, FitWeightScales(batches))
    assert relative_error(fitted, model) < 0.8 * relative_error(gm, model)
    assert ctx.reports[0].summary == "5 of 5 layers have other scales"
    assert differing_steps(fitted) < 0.02  # a step of the output's grid


@pytest.mark.thorough
def test_scales_are_fitted_to_points_whose_pairs_are_safe() -> None:
    config = QuantConfig(default=LayerConfig(weight=WeightConfig(pairs="safe")))
    gm, batches = rounded(Kinds(), config=config)
    fitted, _ = run(gm, FitWeightScales(batches))
    assert all(map(are_safe, integer_weights(to_integer().run(fitted))))
    assert relative_error(fitted, Kinds()) != relative_error(gm, Kinds())


def test_float_weights_are_kept() -> None:
    gm, batches = rounded(Kinds())
    fitted, _ = run(gm, FitWeightScales(batches))
    for name, value in gm.named_parameters():
        assert torch.equal(attribute(fitted, name), value)


def test_a_second_run_changes_little_and_layers_of_more_bits_are_left_alone() -> None:
    gm, batches = rounded(Kinds())
    _, ctx = run(gm, FitWeightScales(batches, bits=3))
    assert {r.text for r in ctx.declined} == {"its weights have 4 bits"}
    assert not ctx.reports[0].changed


def test_declines_shared_weights() -> None:
    gm, batches = rounded(Tied(), torch.randn(16, 6))
    _, ctx = run(gm, FitWeightScales(batches))
    assert [r.text for r in ctx.declined] == ["'second.weight' is shared"] * 2


def test_rows_and_samples_matter() -> None:
    gm, batches = rounded(Kinds())
    hashes = {
        qpc.fingerprint(run(gm, FitWeightScales(batches, samples, rows))[0])
        for samples, rows in ((24, 1024), (4, 1024), (24, 16))
    }
    assert len(hashes) == 3


def test_refuses_nonsense() -> None:
    with pytest.raises(ConfigError, match="rows must be at least 1, got 0"):
        FitWeightScales([], rows=0)
    with pytest.raises(ConfigError, match="bits must be at least 2, got 1"):
        FitWeightScales([], bits=1)
    gm, _ = rounded(Kinds())
    with pytest.raises(CalibrationError, match="there are no batches to fit scales of weights on"):
        run(gm, FitWeightScales([]))
