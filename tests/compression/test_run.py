from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from torch.fx import GraphModule

from qpc.channels.cost import cost
from tests.compression.running import PRUNE, run

PRUNED: dict[str, Any] = {"rounds": {"at_most": 3, "steps": [PRUNE]}}


def says(values: Iterable[float]) -> Callable[[GraphModule], float]:
    """An evaluation that returns these, one after the other."""
    left = iter(values)
    return lambda gm: next(left)


def test_rounds_end_when_one_breaks_the_budget_and_the_one_before_is_returned() -> None:
    recipe = {**PRUNED, "budget": {"lose": 0.05}}
    result = run(recipe, evaluate=says([0.9, 0.9, 0.87, 0.80]))
    assert result.stopped == "round 2 has broken the budget"
    assert result.best.name == "round 1"


def test_patience_lets_a_round_recover() -> None:
    rounds = {**PRUNED["rounds"], "patience": 1}
    result = run(
        {"rounds": rounds, "budget": {"lose": 0.05}}, evaluate=says([0.9, 0.9, 0.80, 0.87, 0.86])
    )
    assert result.stopped == "all rounds are done: 3"
    assert result.best.name == "round 3"


def test_rounds_end_when_the_target_is_reached() -> None:
    result = run({**PRUNED, "target": {"macs": "70%"}}, evaluate=lambda gm: 1.0)
    assert result.stopped == "the target is reached"
    assert result.reached is True
    assert [row.name for row in result.rows][-1] == result.best.name == "round 2"


def test_a_target_that_is_missed_is_told() -> None:
    recipe = {**PRUNED, "target": {"macs": 1}}
    result = run(recipe, evaluate=lambda gm: 1.0)
    assert (result.stopped, result.reached) == ("all rounds are done: 3", False)
    assert "the target was not reached" in result.summary()


def test_a_smaller_metric_can_be_the_better_one() -> None:
    recipe = {**PRUNED, "better": "lower", "metric": "loss", "budget": {"lose": 0.5}}
    result = run(recipe, evaluate=says([1.0, 1.1, 1.4, 1.6]))
    assert result.stopped == "round 2 has broken the budget"
    assert result.best.name == "round 1"


def test_the_finish_is_a_branch_that_rounds_do_not_see() -> None:
    """Its channels are gone from candidates only."""
    half = {**PRUNE, "allocation": {"kind": "global", "amount": 0.5, "of": "macs"}}
    recipe = {"rounds": {"at_most": 1, "steps": ["fold-batch-norm"]}, "finish": [half]}
    seen: list[int] = []

    def evaluate(gm: GraphModule) -> float:
        seen.append(cost(gm).macs)
        return 1.0

    run(recipe, evaluate=evaluate)
    assert seen[0] > seen[1] == seen[2]


def test_steps_can_be_judged_in_between() -> None:
    noted = {"kind": "evaluate", "name": "pruned"}
    recipe = {"start": [noted], "rounds": {"at_most": 2, "steps": [PRUNE, noted]}}
    result = run(recipe, evaluate=lambda gm: 1.0)
    names = [row.name for row in result.rows if not row.candidate]
    assert names == ["baseline", "pruned", "pruned (1)", "pruned (2)"]
    assert result.best.candidate


def test_candidates_can_be_judged_before_they_are_integers() -> None:
    coarse = {"default": {"activation": {"observer": "min-max"}}}
    finish = [{"kind": "quantize", "config": coarse}]
    seen: list[set[str]] = []

    def evaluate(gm: GraphModule) -> float:
        seen.append({str(node.target) for node in gm.graph.nodes})
        return 1.0

    for judge in ("integers", "rounded"):
        run({"finish": finish, "judge": judge}, evaluate=evaluate)
    assert "qpc.linear.default" in seen[1]
    assert "qpc.fake_quantize.default" in seen[3]


def test_an_error_says_in_which_step() -> None:
    twice = [{"kind": "quantize"}, {"kind": "quantize"}]
    with pytest.raises(Exception, match="rounded to grids already") as error:
        run({"finish": twice}, evaluate=lambda gm: 1.0)
    assert "  in step: finish-0.2-quantize" in error.value.__notes__
