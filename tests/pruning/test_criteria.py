"""The protocol of criteria, and what they share: joining channels to units, and common scales."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.channels.flow import ParameterAxis
from qpc.channels.groups import ChannelAnalysis, Group, analyze_channels
from qpc.pruning.criteria import (
    Criterion,
    ParameterCriterion,
    aggregated,
    normalized,
    rows,
)
from qpc.pruning.magnitude import L1
from qpc.testing import traced

LABELS = torch.tensor([4, 2, 4, 9, 2, -1])
SCORES = torch.tensor([1.0, 2, 3, 4, 6, 100], dtype=torch.float64)


class Tied(nn.Module):
    """Two layers whose channels are added, and one that reads the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 3, bias=False), nn.Linear(1, 3)
        self.out = nn.Linear(3, 2)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[1.0], [-2], [3]]))
            self.b.weight.copy_(torch.tensor([[5.0], [0], [-1]]))
            self.out.weight.copy_(torch.tensor([[1.0, 2, 3], [1, -1, 1]]))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.a(x) + self.b(x))
        return y


def scores(criterion: Criterion, gm: GraphModule | None = None) -> list[float]:
    """The scores of the first group."""
    gm = gm if gm is not None else traced(Tied(), torch.randn(2, 1))
    analysis = analyze_channels(gm)
    found: list[float] = criterion.scores(gm, analysis, analysis.groups[0]).tolist()
    return found


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [4.0, 2.0, 4.0]),
        ("sum", [8.0, 4.0, 4.0]),
        ("max", [6.0, 3.0, 4.0]),
        ("first", [2.0, 1.0, 4.0]),
    ],
)
def test_the_scores_of_a_units_channels_are_joined(how: Any, expected: list[float]) -> None:
    assert aggregated([2, 4, 9], LABELS, SCORES, how).tolist() == expected


@pytest.mark.parametrize("how", ["mean", "sum", "max", "first"])
def test_a_unit_without_channels_is_unknown(how: Any) -> None:
    found = aggregated([9, 3], LABELS, SCORES, how)
    assert found[0] == 4
    assert math.isnan(found[1])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", [1.0, 2.0, 6.0]),
        ("mean", [1 / 3, 2 / 3, 2.0]),
        ("max", [1 / 6, 2 / 6, 1.0]),
        ("sum", [1 / 9, 2 / 9, 6 / 9]),
        ("standardize", [-2 / math.sqrt(14 / 3), -1 / math.sqrt(14 / 3), 3 / math.sqrt(14 / 3)]),
    ],
)
def test_scores_are_brought_to_a_common_scale(how: Any, expected: list[float]) -> None:
    given = torch.tensor([1.0, math.nan, 2.0, 6.0], dtype=torch.float64)
    found = normalized(given, how)
    assert math.isnan(found[1])
    assert found[[0, 2, 3]].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("how", ["mean", "max", "sum", "standardize"])
def test_scores_that_are_all_zero_stay_zero(how: Any) -> None:
    assert normalized(torch.zeros(3), how).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("producing", [3.0, 1.0, 2.0]),
        ("consuming", [2.0, 3.0, 4.0]),
        ("both", [8 / 3, 5 / 3, 8 / 3]),
    ],
)
def test_a_role_says_which_weights_are_looked_at(role: Any, expected: list[float]) -> None:
    assert scores(L1(normalize="none", role=role)) == pytest.approx(expected)


def test_aggregation_and_normalization_are_options_of_a_criterion() -> None:
    assert scores(L1(aggregate="max", normalize="none")) == [5, 2, 3]
    assert scores(L1(aggregate="first", normalize="max")) == pytest.approx([1 / 3, 2 / 3, 1])


def test_biases_and_what_is_no_weight_do_not_count() -> None:
    gm = traced(Tied(), torch.randn(2, 1))
    with torch.no_grad():
        gm.get_parameter("b.bias").fill_(1e6)
    assert scores(L1(normalize="none", role="both"), gm)[0] < 10


def test_a_criterion_of_ones_own_needs_one_method() -> None:
    @dataclass(frozen=True)
    class Largest(ParameterCriterion):
        def channel_scores(self, gm: GraphModule, axis: ParameterAxis) -> Tensor:
            return rows(gm, axis).abs().amax(1)

    @dataclass(frozen=True)
    class Position(Criterion):
        def scores(self, gm: GraphModule, analysis: ChannelAnalysis, group: Group) -> Tensor:
            return torch.arange(len(group.prunable))

    assert scores(Largest(aggregate="max")) == [5, 2, 3]
    assert scores(Position()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregate": "median"}, "aggregate must be .*, got 'median'"),
        ({"normalize": "softmax"}, "normalize must be .*, got 'softmax'"),
        ({"role": "reading"}, "role must be 'producing', 'consuming' or 'both', got 'reading'"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        L1(**options)
