from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qpc.compression.recipe import Recipe, differences, in_units, schema
from qpc.errors import ConfigError
from qpc.pruning.magnitude import L1
from tests.compression.running import PRUNE, TUNE
from tests.conftest import compare_with_golden

SCHEMA = Path(__file__).parents[2] / "docs" / "recipe.schema.json"


@pytest.mark.thorough
def test_the_schema_for_editors_is_that_of_the_recipes(request: pytest.FixtureRequest) -> None:
    # in a process of its own: tests register names, too
    code = "import json, qpc.compression.recipe as r; print(json.dumps(r.schema(), indent=1))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text = done.stdout
    compare_with_golden(SCHEMA, text, update=bool(request.config.getoption("--update-golden")))


def test_the_schema_knows_steps_passes_and_names() -> None:
    step = schema()["$defs"]["step"]
    names = step["anyOf"][0]["enum"]
    assert {"prune", "qat", "fold-batch-norm"} <= set(names)
    prune = next(each for each in step["anyOf"] if each.get("title") == "Prune")
    assert "taylor" in prune["properties"]["criterion"]["anyOf"][0]["enum"]
    assert prune["required"] == ["allocation", "criterion", "kind"]


def test_a_recipe_without_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="a recipe needs steps, in start, rounds or finish"):
        Recipe(seed=1)


def test_a_target_needs_something() -> None:
    with pytest.raises(ConfigError, match="a target needs one of macs, parameters, bytes, laten"):
        Recipe.model_validate({"start": [TUNE], "target": {}})


def test_amounts_are_numbers_or_shares() -> None:
    target = {"macs": "12.5 %", "bytes": 3000}
    recipe = Recipe.model_validate({"start": [PRUNE], "target": target})
    assert recipe.target is not None
    amounts = recipe.target.amounts()
    assert {name: in_units(amount, 800) for name, amount in amounts.items()} == {
        "macs": 100,
        "bytes": 3000,
    }


def test_what_decides_between_models_is_what_the_target_is_about() -> None:
    def preference(**more: object) -> str:
        return Recipe.model_validate({"start": [PRUNE], **more}).preference

    assert preference() == "bytes"
    assert preference(target={"macs": "50%"}) == "macs"
    assert preference(target={"macs": "50%"}, prefer="parameters") == "parameters"


def test_models_are_compiled_if_something_asks_for_their_latency() -> None:
    def compilation(**more: object) -> object:
        return Recipe.model_validate({"start": [PRUNE], **more}).compilation

    assert compilation() is None
    assert compilation(target={"latency_ms": "50%"}) is not None
    assert compilation(prefer="latency_ms") is not None
    assert compilation(compile={"threads": 2}) is not None


@pytest.mark.parametrize(
    ("steps", "target", "problem"),
    [
        ([PRUNE], {"macs": "40%"}, "macs: 40% cannot be reached: the steps leave 50% at least"),
        ([TUNE], {"parameters": "90%"}, "parameters: 90% cannot be reached: the steps leave 100%"),
    ],
)
def test_a_target_that_no_model_could_reach_is_refused(
    steps: list[object], target: dict[str, object], problem: str
) -> None:
    recipe = Recipe.model_validate({"start": steps, "target": target})
    with pytest.raises(ConfigError, match=problem):
        recipe.require_reachable()


@pytest.mark.parametrize(
    ("steps", "target"),
    [
        ([PRUNE], {"macs": "50%"}),
        ([PRUNE], {"parameters": "0.5%"}),  # a share of the MACs is pruned; of parameters, perhaps
        (["remove-channels"], {"macs": "1%"}),  # nobody knows how many that will be
        ([PRUNE], {"macs": 3}),
    ],
)
def test_a_target_that_may_be_reached_is_not_refused(
    steps: list[object], target: dict[str, object]
) -> None:
    Recipe.model_validate({"start": steps, "target": target}).require_reachable()


class Nameless(L1):
    """A criterion of a user's that has no name."""


def test_what_has_no_name_cannot_be_written() -> None:
    step = {**PRUNE, "criterion": Nameless()}
    with pytest.raises(ConfigError, match="has no name that a text could use"):
        Recipe.model_validate({"start": [step]}).plain()


def test_differences_are_told_in_words() -> None:
    old = Recipe.model_validate({"start": [PRUNE, TUNE]}).plain()
    new = Recipe.model_validate({"seed": 1, "start": [PRUNE, {**TUNE, "epochs": 4}]}).plain()
    assert list(differences(old, new)) == ["seed was 0, is 1", "start[1].epochs was 3, is 4"]
    other = Recipe.model_validate({"start": [{**PRUNE, "criterion": L1()}]}).plain()
    assert next(iter(differences(old, other))).startswith("start was [")
