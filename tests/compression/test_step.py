from __future__ import annotations

from typing import Literal

import pytest
from torch.fx import GraphModule

from qpc.compression.step import STEPS, Place, Step, StepContext
from qpc.errors import ConfigError
from tests.compression.running import run


def test_a_step_of_one_s_own_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STEPS, "_classes", dict(STEPS._classes))
    seen: list[Place] = []

    @STEPS.named("look")
    class Look(Step):
        kind: Literal["look"] = "look"
        closely: bool = False

        def run(self, gm: GraphModule, at: StepContext) -> GraphModule:
            seen.append(at.place)
            return gm

    recipe = {"start": [{"kind": "look", "closely": True}], "finish": ["look"]}
    run(recipe, evaluate=lambda gm: 1.0)
    assert [(each.name, each.phase) for each in seen] == [
        ("start.1-look", "start"),
        ("finish-0.1-look", "finish"),
    ]


def test_a_step_says_its_own_name() -> None:
    with pytest.raises(ConfigError, match="must have a field `kind` with default 'mute'"):

        @STEPS.named("mute")
        class Mute(Step):
            kind: str

            def run(self, gm: GraphModule, at: StepContext) -> GraphModule:
                return gm


def test_a_step_without_batches_says_so() -> None:
    context = StepContext(
        Place("start.1-x", "start"),
        0,
        batches=None,
        train=None,
        loss=None,
        teacher=pytest.fail,
        baseline=lambda heads: pytest.fail("it is not asked"),
    )
    with pytest.raises(ConfigError, match=r"the step 'start\.1-x' needs calibration data"):
        context.require_batches()
    assert dict(context.supply) == {}
