from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from torch import nn
from torch.fx import Graph, GraphModule

from qpc.compression.recipe import Recipe
from qpc.compression.result import CompressResult, Judgement, Row


def row(name: str, metric: float, macs: int, *, candidate: bool = True) -> Row:
    return Row(name, candidate, metric, macs, macs * 2, macs * 4, None, name)


BASE = row("baseline", 0.9, 100, candidate=False)
ROWS = (
    BASE,
    row("before the rounds", 0.88, 100),
    row("round 1", 0.89, 80),
    row("round 2", 0.85, 60),
    row("noted", 0.95, 10, candidate=False),
    row("round 3", 0.70, 30),
)


def judgement(**settings: object) -> Judgement:
    recipe = Recipe.model_validate({"start": ["fold-batch-norm"], **settings})
    return Judgement(recipe, BASE)


def best(**settings: object) -> str:
    found = judgement(**settings).best(ROWS)
    return found.name if found else ""


def test_the_best_is_the_cheapest_candidate_inside_of_the_budget() -> None:
    assert best() == "round 3"
    assert best(budget={"lose": 0.05}) == "round 2"
    assert best(budget={"limit": 0.86}) == "round 1"
    assert best(budget={"limit": 0.99}) == ""


def test_the_limit_itself_is_inside() -> None:
    assert best(budget={"limit": 0.85}) == "round 2"


def test_models_at_the_target_come_first() -> None:
    assert best(target={"macs": 85}, prefer="bytes") == "round 3"
    assert best(budget={"limit": 0.87}, target={"macs": "80%"}) == "round 1"


def test_of_equal_costs_the_better_one_is_taken() -> None:
    rows = [row("a", 0.8, 50), row("b", 0.9, 50)]
    found = judgement().best(rows)
    assert found is not None
    assert found.name == "b"


def test_where_less_is_better_the_limit_is_above() -> None:
    lower = judgement(better="lower", budget={"lose": 0.05})
    assert lower.limit == pytest.approx(0.95)
    assert lower.inside(row("x", 0.94, 1))
    assert not lower.inside(row("x", 0.96, 1))


def test_the_front_is_what_nothing_beats() -> None:
    names = [each.name for each in judgement().front(ROWS, "macs")]
    assert names == ["noted"]
    without = [each for each in ROWS if each.name != "noted"]
    names = [each.name for each in judgement().front(without, "macs")]
    assert names == ["round 3", "round 2", "round 1", "baseline"]


def test_a_target_that_was_not_measured_is_not_reached() -> None:
    assert not judgement(target={"latency_ms": 3}).reaches(ROWS[2])


def result(reached: bool | None = None) -> CompressResult:
    graph = Graph()
    graph.output(graph.placeholder("x"))
    gm = GraphModule(nn.Module(), graph)
    told = judgement(budget={"lose": 0.05})
    return CompressResult(gm, ROWS[3], ROWS, told, "all rounds are done: 3", reached, None)


def test_the_table_has_a_line_for_each_and_a_star_for_the_best() -> None:
    lines = result().table().splitlines()
    assert lines[0].split() == ["accuracy", "macs", "parameters", "bytes"]
    assert lines[4] == "* round 2              0.8500    60         120    240"
    assert len({len(line) for line in lines}) == 1


def test_json_says_which_are_inside_and_on_a_front() -> None:
    plain = json.loads(json.dumps(result(reached=False).plain()))
    assert (plain["best"], plain["target_reached"]) == ("round 2", False)
    models = {each["name"]: each for each in plain["models"]}
    assert models["round 2"]["inside_budget"]
    assert not models["round 3"]["inside_budget"]
    assert models["noted"]["pareto"] == ["macs", "parameters", "bytes"]


def test_the_picture_has_a_panel_for_each_cost() -> None:
    picture = ElementTree.fromstring(result().plot())
    space = "{http://www.w3.org/2000/svg}"
    panels = picture.findall(f"{space}g")
    assert len(panels) == 3
    assert all(len(panel.findall(f"{space}circle")) == len(ROWS) for panel in panels)


def test_the_summary_says_what_was_missed() -> None:
    assert result().summary() == "all rounds are done: 3: the best is 'round 2'."
    assert "; the target was not reached: " in result(reached=False).summary()
