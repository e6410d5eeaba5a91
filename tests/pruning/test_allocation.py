"""How much each group loses: rules, limits, scopes and budgets."""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.channels.cost import CostModel
from qpc.channels.groups import ChannelAnalysis, analyze_channels
from qpc.errors import PassError
from qpc.pruning.allocation import (
    Allocation,
    Choice,
    Counts,
    Global,
    Isomorphic,
    PerLayer,
    Uniform,
)
from qpc.pruning.magnitude import L1, Random
from qpc.pruning.scored_groups import Baseline, ScoredGroup, score_groups
from qpc.pruning.weight_layers import Scope
from qpc.testing import traced


class Net(nn.Module):
    """A stem, a residual block with a depthwise layer, a grouped layer, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.expand, self.depth = nn.Conv2d(24, 40, 1), nn.Conv2d(40, 40, 3, 1, 1, groups=40)
        self.project, self.grouped = nn.Conv2d(40, 24, 1), nn.Conv2d(24, 32, 3, groups=2)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.project(torch.relu(self.depth(self.expand(x))))
        y: Tensor = self.head(torch.relu(self.grouped(x)).mean((2, 3)))
        return y


@functools.cache
def net() -> tuple[GraphModule, ChannelAnalysis, CostModel]:
    torch.manual_seed(0)
    gm = traced(Net(), torch.randn(2, 3, 8, 8))
    analysis = analyze_channels(gm)
    return gm, analysis, CostModel(gm, analysis)


def groups_of_net(seed: int | None = None, baseline: Baseline | None = None) -> Any:
    gm, analysis, _ = net()
    criterion = L1() if seed is None else Random(seed)
    return score_groups(gm, analysis, criterion, baseline)


def choose(allocation: Allocation, seed: int | None = None) -> Choice:
    return allocation.choose(groups_of_net(seed, allocation.baseline), net()[2])


def kept(choice: Choice) -> dict[str, int]:
    """The channels that are left of each group that may lose any."""
    return {
        scored.group.name: (scored.units - len(choice.removed.intersection(scored.order)))
        * scored.width
        for scored in groups_of_net()
        if scored.order
    }


def macs_gone(choice: Choice) -> float:
    model = net()[2]
    return 1 - model.after(choice.removed).macs / model.after().macs


def test_the_net_has_four_kinds_of_groups() -> None:
    found = {g.group.name: (g.units, g.width, bool(g.order)) for g in groups_of_net()}
    assert found == {
        "stem": (12, 2, True),
        "expand": (40, 1, True),
        "grouped": (16, 2, True),
        "head": (10, 1, False),
    }


# --- rules ----------------------------------------------------------------------------------------


def test_uniform_takes_the_same_share_of_every_group() -> None:
    assert kept(choose(Uniform(0.25))) == {"stem": 18, "expand": 30, "grouped": 24}


def test_the_units_of_lowest_score_go() -> None:
    choice = choose(Uniform(0.25))
    for scored in groups_of_net():
        gone = choice.removed.intersection(scored.order)
        assert gone == set(scored.order[: len(gone)])


def test_global_takes_the_lowest_of_all() -> None:
    scores = sorted(score for scored in groups_of_net() for score in scored.scores)
    choice = choose(Global(0.5))
    assert (
        len(choice.removed) == (12 + 40 + 16) // 2
    )  # the classifier's outputs, which stay, do not count
    worst = max(
        dict(zip(g.order, g.scores, strict=True))[atom]
        for g in groups_of_net()
        for atom in choice.removed.intersection(g.order)
    )
    assert worst == scores[len(choice.removed) - 1]


def linears(*sizes: int) -> tuple[tuple[ScoredGroup, ...], CostModel]:
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    gm = traced(nn.Sequential(*layers), torch.randn(2, sizes[0]))
    analysis = analyze_channels(gm)
    return score_groups(gm, analysis, L1(normalize="none")), CostModel(gm, analysis)


def test_isomorphic_compares_groups_of_the_same_structure_alone() -> None:
    assert kept(choose(Isomorphic(0.5))) == kept(choose(Uniform(0.5)))  # no two groups are alike
    alike, _ = linears(64, 8, 8, 8, 2)
    counts = Isomorphic(0.5).wanted(alike, 0.5)
    assert counts == [*Global(0.5).wanted(alike[:3], 0.5), 0]
    assert len(set(counts[:3])) > 1


def test_per_layer_takes_given_ratios_and_leaves_the_rest() -> None:
    allocation = PerLayer(ratios={"stem": 0.5, "ex*": 0.1})
    assert kept(choose(allocation)) == {"stem": 12, "expand": 36, "grouped": 32}


def test_the_smallest_ratio_of_a_group_counts() -> None:
    allocation = PerLayer(ratios={"stem": 0.5, "project": 0.25})
    assert kept(choose(allocation))["stem"] == 18


def test_an_amount_scales_given_ratios() -> None:
    assert kept(choose(PerLayer(0.5, ratios={"expand": 0.5})))["expand"] == 30


def test_a_budget_scales_given_ratios_even_up() -> None:
    choice = choose(PerLayer(0.3, ratios={"expand": 0.02, "grouped": 0.01}, of="macs"))
    assert macs_gone(choice) == pytest.approx(0.3, abs=STEP)
    left = kept(choice)
    assert left["stem"] == 24
    assert 1 - left["expand"] / 40 == pytest.approx(2 * (1 - left["grouped"] / 32), abs=0.07)


def test_counts_keeps_given_numbers_of_channels() -> None:
    allocation = Counts(channels={"expand": 7, "grouped": 5, "st*": 24})
    assert kept(choose(allocation)) == {"stem": 24, "expand": 7, "grouped": 6}


def test_the_greatest_count_of_a_group_counts() -> None:
    assert kept(choose(Counts(channels={"stem": 8, "project": 10})))["stem"] == 10


def test_more_channels_than_there_are_stay_as_they_are() -> None:
    assert kept(choose(Counts(channels={"expand": 100})))["expand"] == 40


def test_a_rule_of_ones_own_needs_one_method() -> None:
    class FirstGroup(Allocation):
        def wanted(self, groups: Any, share: float) -> list[int]:
            return [
                round(share * g.original) if place == 0 else 0 for place, g in enumerate(groups)
            ]

    assert kept(choose(FirstGroup(0.5))) == {"stem": 12, "expand": 40, "grouped": 32}
    assert macs_gone(choose(FirstGroup(0.2, of="macs"))) == pytest.approx(0.2, abs=STEP)


# --- limits and scopes ----------------------------------------------------------------------------


def test_every_group_keeps_a_minimum() -> None:
    assert kept(choose(Uniform(1.0))) == {"stem": 2, "expand": 1, "grouped": 2}
    assert kept(choose(Uniform(1.0, minimum=5))) == {"stem": 6, "expand": 5, "grouped": 6}


def test_channels_kept_are_rounded_up_to_a_multiple() -> None:
    assert kept(choose(Uniform(0.3, multiple=8))) == {"stem": 16, "expand": 32, "grouped": 24}
    assert kept(choose(Uniform(0.7, multiple=16))) == {"stem": 16, "expand": 16, "grouped": 16}


def test_a_group_smaller_than_the_multiple_stays() -> None:
    assert kept(choose(Uniform(0.5, multiple=64))) == {"stem": 24, "expand": 40, "grouped": 32}


@pytest.mark.parametrize(
    ("only", "left"),
    [
        (Scope(module="grouped"), {"stem": 24, "expand": 40, "grouped": 16}),
        (Scope(pattern="[ed]*"), {"stem": 24, "expand": 20, "grouped": 32}),
        (Scope(op="conv2d"), {"stem": 12, "expand": 20, "grouped": 16}),
        (Scope(op="linear"), {"stem": 24, "expand": 40, "grouped": 32}),
        (Scope(module="stem"), {"stem": 24, "expand": 40, "grouped": 32}),  # tied to project
    ],
)
def test_only_layers_in_scope_lose_channels(only: Scope, left: dict[str, int]) -> None:
    assert kept(choose(Uniform(0.5, only=only))) == left


def test_skipped_layers_keep_their_channels() -> None:
    choice = choose(Uniform(0.5, skip=(Scope(module="project"), Scope(module="grouped"))))
    assert kept(choice) == {"stem": 24, "expand": 20, "grouped": 32}
    names = [g.group.name for g in groups_of_net() if g.group.index in choice.out_of_scope]
    assert names == ["stem", "grouped"]


def test_a_scope_that_selects_nothing_is_refused() -> None:
    with pytest.raises(PassError, match=r"Scope\(module='stam'.*\) selects no layer that makes"):
        choose(Uniform(0.5, skip=(Scope(module="stam"),)))


@pytest.mark.parametrize(
    "allocation", [PerLayer(ratios={"stam": 0.5}), Counts(channels={"stam": 5})]
)
def test_a_layer_name_that_matches_nothing_is_refused(allocation: Allocation) -> None:
    with pytest.raises(PassError, match="no layer in scope that makes channels is named 'stam'"):
        choose(allocation)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(1.5), "amount must be from 0 to 1, got 1.5"),
        (
            lambda: Uniform(0.5, of=cast(Any, "flops")),
            "of must be 'units', .* or 'macs', got 'flops'",
        ),
        (lambda: Uniform(0.5, minimum=0), "minimum must be at least 1, got 0"),
        (lambda: Uniform(0.5, multiple=0), "multiple must be at least 1, got 0"),
        (lambda: PerLayer(ratios={"a": 2.0}), "the ratio of 'a' must be from 0 to 1, got 2.0"),
        (lambda: Counts(channels={"a": 0}), "channels of 'a' must be at least 1, got 0"),
    ],
)
def test_impossible_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- budgets --------------------------------------------------------------------------------------

STEP = 0.035  # half of what the net's most expensive unit is worth
RULES: list[Any] = [Uniform, Global, Isomorphic]
RULE, SEED = st.sampled_from(RULES), st.integers(0, 50)
MEASURE = st.sampled_from(["channels", "parameters", "macs"])
AMOUNT = st.floats(0, 1)


def total_gone(choice: Choice, of: Any) -> float:
    model = net()[2]
    return 1 - model.total(of, choice.removed) / model.total(of)


@given(RULE, MEASURE, st.floats(0, 0.7), SEED)
def test_a_budget_is_hit_within_half_a_step(rule: Any, of: Any, amount: float, seed: int) -> None:
    choice = choose(rule(amount, of=of), seed)
    assert choice.reached == pytest.approx(total_gone(choice, of))
    assert total_gone(choice, of) == pytest.approx(amount, abs=STEP)


@pytest.mark.thorough
@given(RULE, MEASURE, AMOUNT, AMOUNT, SEED, st.integers(1, 9), st.sampled_from([1, 2, 8]))
def test_more_goes_for_a_greater_amount(
    rule: Any, of: Any, a: float, b: float, seed: int, minimum: int, multiple: int
) -> None:
    less, more = (
        choose(rule(amount, of=of, minimum=minimum, multiple=multiple), seed)
        for amount in sorted((a, b))
    )
    assert less.removed <= more.removed


@given(
    RULE,
    st.sampled_from(["units", "channels", "parameters", "macs"]),
    AMOUNT,
    SEED,
    st.integers(1, 30),
    st.sampled_from([1, 2, 3, 8, 16]),
)
def test_limits_hold_whatever_is_asked_for(
    rule: Any, of: Any, amount: float, seed: int, minimum: int, multiple: int
) -> None:
    left = kept(choose(rule(amount, of=of, minimum=minimum, multiple=multiple), seed))
    for name, size in {"stem": 24, "expand": 40, "grouped": 32}.items():
        assert left[name] >= min(minimum, size)
        assert left[name] % multiple == 0 or left[name] == size


def test_an_amount_out_of_reach_takes_all_that_may_go() -> None:
    choice = choose(Uniform(0.99, of="macs", minimum=16))
    assert kept(choice) == {"stem": 16, "expand": 16, "grouped": 16}
    assert choice.reached is not None
    assert choice.reached < 0.99


def test_a_wide_model_hits_its_budget_within_one_percent() -> None:
    groups, model = linears(64, 96, 128, 64, 10)
    for of in ("channels", "parameters", "macs"):
        for rule in RULES:
            allocation = rule(0.5, of=of)
            assert allocation.choose(groups, model).reached == pytest.approx(0.5, abs=0.005)


def test_amounts_are_relative_to_the_baseline() -> None:
    cost = net()[2].after()
    twice = Baseline(
        type(cost)(cost.layers, 2 * cost.channels, 2 * cost.parameters, 2 * cost.macs),
        (24, 80, 32, 10),
    )
    # half of the baseline has gone already
    assert choose(Uniform(0.5, baseline=twice)).removed == frozenset()
    assert kept(choose(Uniform(0.75, baseline=twice))) == {"stem": 12, "expand": 20, "grouped": 16}
    assert len(choose(Global(0.75, baseline=twice)).removed) == (12 + 40 + 16) // 2
    assert choose(Uniform(0.5, of="macs", baseline=twice)).removed == frozenset()
    choice = choose(Uniform(0.75, of="macs", baseline=twice))
    assert macs_gone(choice) == pytest.approx(0.5, abs=2 * STEP)
    assert choice.reached == pytest.approx(0.75, abs=STEP)


def test_a_share_of_nothing_is_an_error_that_says_so() -> None:
    gm = traced(nn.Embedding(11, 8), torch.randint(0, 11, (2, 4)))
    analysis = analyze_channels(gm)
    groups = score_groups(gm, analysis, L1())
    with pytest.raises(PassError, match=r"has no macs, of which 50.0% should go") as caught:
        Global(0.5, of="macs").choose(groups, CostModel(gm, analysis))
    assert caught.value.fix is not None
    assert 'of="units"' in caught.value.fix
