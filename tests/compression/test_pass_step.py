from __future__ import annotations

import pytest
import torch
from torch import nn

import qpc
from qpc.compression.pass_step import PassStep
from qpc.compression.recipe import Recipe
from qpc.errors import ConfigError
from qpc.testing import traced
from tests.compression.running import inputs


def test_the_name_of_a_pass_is_a_step_and_is_written_as_it_was_read() -> None:
    data = {"start": [{"kind": "mask-weights", "rule": {"kind": "ratio", "fraction": 0.5}}]}
    recipe = Recipe.model_validate(data)
    assert isinstance(recipe.start[0], PassStep)
    assert recipe.plain()["start"] == data["start"]
    assert recipe.start[0].required == frozenset()


def test_settings_may_stand_apart_as_python_has_them() -> None:
    settings = {"rule": {"kind": "ratio", "fraction": 0.5}}
    apart = PassStep(kind="mask-weights", settings=settings)
    assert apart == PassStep.model_validate({"kind": "mask-weights", **settings})
    assert apart.model_dump() == {"kind": "mask-weights", **settings}
    with pytest.raises(ConfigError, match="PassStep: Input should be a valid dictionary"):
        PassStep.model_validate(["mask-weights"])


def test_batches_come_from_the_run() -> None:
    recipe = Recipe.model_validate({"start": ["reestimate-batch-norm"]})
    assert recipe.start[0].required == {"batches"}
    gm = traced(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), inputs())
    result = qpc.compress(gm, recipe, evaluate=lambda gm: 1.0, batches=[inputs()])
    means = dict(result.model.named_buffers())["1.running_mean"]
    expected = gm.get_parameter("0.weight") @ inputs().mean(0) + gm.get_parameter("0.bias")
    torch.testing.assert_close(means, expected)


def test_settings_that_a_pass_does_not_have_are_told() -> None:
    with pytest.raises(ConfigError, match=r"pass \(fold-batch-norm\) has no setting 'x'"):
        Recipe.model_validate({"start": [{"kind": "fold-batch-norm", "x": 1}]})
