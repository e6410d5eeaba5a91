"""Numbers of channels that pay: whole vectors, the amount asked for, and the rule's order."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qpc.channels.cost import CostModel
from qpc.channels.groups import analyze_channels
from qpc.channels.times import TimeModel
from qpc.pruning.allocation import Allocation, Choice, Global, Isomorphic, PerLayer, Uniform
from qpc.pruning.magnitude import Random
from qpc.pruning.scored_groups import ScoredGroup, score_groups
from qpc.pruning.weight_layers import Scope
from qpc.targets.times import LayerShape, LayerTimes, VectorTimes
from qpc.testing import traced

RULES: list[Any] = [Uniform, Global, Isomorphic]


@dataclass(frozen=True)
class Multiplications:
    """Every multiplication takes the same time: no number of channels pays more than another."""

    name: str = "multiplications"

    def time(self, layer: LayerShape) -> float:
        return float(layer.positions * layer.inputs * layer.outputs // max(layer.groups, 1))


@functools.cache
def stack(sizes: tuple[int, ...], seed: int = 0) -> tuple[Any, CostModel, Any]:
    """1x1 convolutions, each followed by a depthwise one."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Conv2d(a, b, 1), nn.Conv2d(b, b, 3, padding=1, groups=b)]
    gm = traced(nn.Sequential(*layers, nn.Conv2d(sizes[-1], 10, 1)), torch.randn(2, sizes[0], 8, 8))
    analysis = analyze_channels(gm)
    groups = score_groups(gm, analysis, Random(seed))
    return groups, CostModel(gm, analysis), functools.partial(TimeModel, gm, analysis)


WIDE = (16, 64, 48, 96, 64)


def choose(
    allocation: Allocation, times: LayerTimes | None, sizes: tuple[int, ...] = WIDE, seed: int = 0
) -> tuple[Choice, list[int]]:
    """The choice, and the channels that are left of each group that may lose any."""
    groups, costs, model = stack(sizes, seed)
    choice = allocation.choose(groups, costs, None if times is None else model(times))
    return choice, [left(scored, choice) for scored in groups if scored.order]


def left(scored: ScoredGroup, choice: Choice) -> int:
    return scored.units - len(choice.removed.intersection(scored.order))


def time_of(
    choice: Choice, times: LayerTimes, sizes: tuple[int, ...] = WIDE, seed: int = 0
) -> float:
    model: TimeModel = stack(sizes, seed)[2](times)
    return model.time(model.kept(choice.removed))


def test_vectors_are_full_where_the_rule_would_leave_parts_of_them() -> None:
    vectors = VectorTimes(16)
    by_rule, rule = choose(Uniform(0.3, of="macs"), None)
    paying, counts = choose(Uniform(0.3, of="macs"), vectors)
    assert [count % 16 for count in rule] != [0, 0, 0, 0]
    assert time_of(paying, vectors) < time_of(by_rule, vectors)
    assert counts != rule


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_alone_counts_where_all_channels_gain_the_same(rule: Any) -> None:
    _, by_rule = choose(rule(0.5, of="macs"), None)
    _, paying = choose(rule(0.5, of="macs"), Multiplications())
    assert paying == pytest.approx(
        by_rule, abs=8
    )  # 1/16 of the widest group, as others are rounded


@pytest.mark.parametrize("rule", [Global, Isomorphic])
def test_sixteen_channels_or_more_are_left_in_round_numbers(rule: Any) -> None:
    for amount in (0.05, 0.1, 0.2):  # of which the wide layer's share is less than four channels
        _, counts = choose(rule(amount, of="macs"), Multiplications(), (8, 16, 8))
        assert counts[0] == 16
    _, counts = choose(rule(0.05, of="macs"), Multiplications(), (8, 15, 8))
    assert counts[0] == 14


def test_within_a_group_the_rule_decides_which_units_go() -> None:
    choice, _ = choose(Global(0.4, of="macs"), VectorTimes(16))
    for scored in stack(WIDE)[0]:
        gone = choice.removed.intersection(scored.order)
        assert gone == set(scored.order[: len(gone)])


def test_a_share_of_units_is_what_it_says_on_every_target() -> None:
    assert choose(Uniform(0.3), VectorTimes(16)) == choose(Uniform(0.3), None)
    assert Uniform(0.3).times() is None
    assert Uniform(0.3, of="macs", target=None).times() is None
    assert Uniform(0.3, of="macs", target=VectorTimes(4)).times() == VectorTimes(4)


def test_the_estimate_is_told_in_words() -> None:
    choice, _ = choose(Uniform(0.5, of="macs"), VectorTimes(16))
    model = stack(WIDE)[2]
    faster = model(VectorTimes(16)).faster(choice.removed)
    assert choice.estimate == f"{faster:.2f} times as fast, by vectors of 16 channels"
    assert choose(Uniform(0.5, of="macs"), None)[0].estimate is None


def test_layers_narrower_than_a_vector_lose_channels_where_their_readers_gain() -> None:
    choice, counts = choose(Uniform(0.4, of="macs"), VectorTimes(16), sizes=(8, 12, 8, 12))
    assert choice.reached == pytest.approx(0.4, abs=0.03)
    assert all(count >= 1 for count in counts)


def test_groups_out_of_scope_keep_their_channels() -> None:
    allocation = Global(0.2, of="macs", skip=(Scope(module="0"),))
    _, counts = choose(allocation, VectorTimes(16))
    assert counts[0] == 64


def test_groups_that_a_rule_leaves_alone_stay() -> None:
    _, counts = choose(PerLayer(0.2, ratios={"4": 0.5}, of="macs"), VectorTimes(16))
    assert [counts[0], counts[1], counts[3]] == [64, 48, 64]
    assert counts[2] < 96


def test_nothing_goes_if_nothing_is_asked_for() -> None:
    assert choose(Global(0.0, of="macs"), VectorTimes(16))[0].removed == frozenset()


@pytest.mark.thorough
@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(RULES),
    st.sampled_from(["channels", "parameters", "macs"]),
    st.floats(0, 0.9),
    st.integers(0, 3),
    st.sampled_from([1, 5, 16]),
    st.sampled_from([1, 4]),
    st.sampled_from([WIDE, (8, 12, 8), (3, 24, 40)]),
)
def test_the_amount_is_met_as_nearly_as_by_the_rule_and_limits_hold(
    rule: Any, of: Any, amount: float, seed: int, minimum: int, multiple: int, sizes: Any
) -> None:
    allocation = rule(amount, of=of, minimum=minimum, multiple=multiple)
    vectors = VectorTimes(16)
    by_rule, _ = choose(allocation, None, sizes, seed)
    paying, counts = choose(allocation, vectors, sizes, seed)
    assert by_rule.reached is not None
    assert paying.reached is not None
    off = abs(by_rule.reached - amount)
    assert abs(paying.reached - amount) <= max(off, 0.005) + 1e-9
    for count, size in zip(counts, sizes[1:], strict=True):
        assert count >= min(minimum, size)
        assert count % multiple == 0 or count == size
