"""Amounts where channels go in blocks: as near to what was asked for as whole units allow."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.channels.cost import CostModel
from qpc.channels.groups import ChannelAnalysis, analyze_channels
from qpc.pruning.allocation import Choice, Global, Isomorphic, Uniform
from qpc.pruning.magnitude import Random
from qpc.pruning.scored_groups import ScoredGroup, score_groups
from qpc.testing import traced
from tests.pruning.cases import Net, conv


def in_groups(m: Any, x: Tensor) -> Any:
    return m.z(torch.relu(m.t(torch.relu(m.g(torch.relu(m.a(x)))))))


def in_pixels(m: Any, x: Tensor) -> Any:
    return m.z(torch.relu(m.p(m.b(torch.relu(m.a(x))))))


def in_heads(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    return m.z(y + m.m(y, y, y, need_weights=False)[0])


NETS: dict[str, tuple[Callable[..., Any], dict[str, nn.Module]]] = {
    "groups, transposed ones of 3 units": (
        in_groups,
        {
            "a": conv(3, 15, 1),
            "g": conv(15, 30, 3, groups=3),
            "t": nn.ConvTranspose2d(30, 9, 2, 2, groups=3),
            "z": conv(9, 4),
        },
    ),
    "pixels": (
        in_pixels,
        {"a": conv(3, 10, 1), "b": conv(10, 27, 1), "p": nn.PixelShuffle(3), "z": conv(3, 4)},
    ),
    "heads": (
        in_heads,
        {
            "a": nn.Linear(8, 24),
            "m": nn.MultiheadAttention(24, 3, batch_first=True),
            "z": nn.Linear(24, 4),
        },
    ),
}
RULES: list[Any] = [Uniform, Global, Isomorphic]
NAME, RULE, SEED = st.sampled_from(sorted(NETS)), st.sampled_from(RULES), st.integers(0, 20)
MEASURES = ("channels", "parameters", "macs")
MEASURE, OF = st.sampled_from(MEASURES), st.sampled_from(("units", *MEASURES))
AMOUNT = st.floats(0, 1)


@functools.cache
def graph(name: str) -> tuple[GraphModule, ChannelAnalysis, CostModel]:
    function, parts = NETS[name]
    example = torch.randn(1, 5, 8) if name == "heads" else torch.randn(1, 3, 4, 4)
    gm = traced(Net(function, **parts), example)
    analysis = analyze_channels(gm, heads="*" if name == "heads" else ())
    return gm, analysis, CostModel(gm, analysis)


@functools.cache
def measured(name: str, seed: int) -> tuple[tuple[ScoredGroup, ...], CostModel]:
    gm, analysis, model = graph(name)
    return score_groups(gm, analysis, Random(seed)), model


def choose(rule: Any, amount: float, of: Any, name: str, seed: int) -> Choice:
    groups, model = measured(name, seed)
    chosen: Choice = rule(amount, of=of).choose(groups, model)
    return chosen


def lost(choice: Choice, groups: tuple[ScoredGroup, ...]) -> list[int]:
    return [len(choice.removed.intersection(scored.order)) for scored in groups]


def share_of_the_largest_unit(of: Any, name: str, seed: int) -> float:
    groups, model = measured(name, seed)
    whole = model.total(of)
    return max(1 - model.total(of, {unit}) / whole for g in groups for unit in g.order)


def test_of_three_units_one_goes_for_half() -> None:
    name = "groups, transposed ones of 3 units"
    groups, _ = measured(name, 0)
    counts = lost(choose(Uniform, 0.5, "units", name, 0), groups)
    found = [(g.units, count) for g, count in zip(groups, counts, strict=True) if g.order]
    assert (3, 1) in found
    assert all(count <= units / 2 for units, count in found)


@given(NAME, AMOUNT, SEED)
def test_each_group_is_half_a_unit_from_its_share(name: str, amount: float, seed: int) -> None:
    groups, _ = measured(name, seed)
    choice = choose(Uniform, amount, "units", name, seed)
    for scored, count in zip(groups, lost(choice, groups), strict=True):
        asked = min(amount * scored.units, scored.units - 1) if scored.order else 0
        assert -0.5 - 1e-9 <= asked - count <= 0.5 + 1e-9


@given(NAME, AMOUNT, SEED)
def test_one_threshold_is_half_a_unit_from_the_whole(name: str, amount: float, seed: int) -> None:
    groups, _ = measured(name, seed)
    gone = sum(lost(choose(Global, amount, "units", name, seed), groups))
    assert gone <= amount * sum(g.units for g in groups if g.order) + 0.5


@given(NAME, RULE, MEASURE, AMOUNT, SEED)
def test_a_share_of_the_model_is_half_a_unit_away(
    name: str, rule: Any, of: Any, amount: float, seed: int
) -> None:
    reached = choose(rule, amount, of, name, seed).reached
    most = choose(rule, 1.0, of, name, seed).reached
    assert reached is not None
    assert most is not None
    half = share_of_the_largest_unit(of, name, seed) / 2
    assert reached <= amount + half + 1e-9
    assert reached >= min(amount, most) - half - 1e-9


@pytest.mark.thorough
@given(NAME, RULE, OF, AMOUNT, AMOUNT, SEED)
def test_more_goes_for_a_greater_amount(
    name: str, rule: Any, of: Any, a: float, b: float, seed: int
) -> None:
    less, more = (choose(rule, amount, of, name, seed) for amount in sorted((a, b)))
    assert less.removed <= more.removed
