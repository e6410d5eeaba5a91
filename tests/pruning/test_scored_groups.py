from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.channels.groups import ChannelAnalysis, Group, analyze_channels
from qpc.errors import PassError
from qpc.pruning.criteria import Criterion
from qpc.pruning.magnitude import L1
from qpc.pruning.scored_groups import Baseline, ScoredGroup, score_groups
from qpc.testing import traced


@dataclass(frozen=True)
class Given(Criterion):
    """The same scores for every group."""

    values: tuple[float, ...]

    def scores(self, gm: GraphModule, analysis: ChannelAnalysis, group: Group) -> Tensor:
        return torch.tensor(self.values)


def linears(*sizes: int) -> GraphModule:
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return traced(nn.Sequential(*layers), torch.randn(2, sizes[0]))


def scored(gm: GraphModule, *values: float) -> tuple[ScoredGroup, ...]:
    return score_groups(gm, analyze_channels(gm), Given(values))


def test_units_are_in_the_order_in_which_they_go() -> None:
    gm = linears(2, 4, 3)
    first = scored(gm, 3.0, 1.0, 2.0, 1.0)[0]
    atoms = [unit.atom for unit in first.group.units]
    assert first.order == (atoms[1], atoms[3], atoms[2], atoms[0])
    assert list(first.scores) == [1, 1, 2, 3]
    assert (first.units, first.original, first.width, first.unknown, first.gone) == (4, 4, 1, 0, 0)


def test_units_that_cannot_be_judged_stay() -> None:
    first = scored(linears(2, 4, 3), 3.0, math.nan, 2.0, 1.0)[0]
    assert len(first.order) == 3
    assert first.unknown == 1


def test_pinned_units_stay() -> None:
    last = scored(linears(2, 4, 3), 3.0, 1.0, 2.0, 1.0)[1]
    assert (last.order, last.units) == ((), 3)


@pytest.mark.parametrize("values", [(1.0, 2.0), (1.0, 2.0, math.inf, 3.0)])
def test_a_criterion_must_give_one_finite_score_for_each_unit(values: tuple[float, ...]) -> None:
    with pytest.raises(
        PassError, match=r"Given\(.*\) gives no finite score for each of the 4 units"
    ):
        scored(linears(2, 4, 3), *values)


def test_a_unit_of_grouped_channels_is_as_wide_as_there_are_groups() -> None:
    layers = [nn.Conv2d(2, 12, 1), nn.Conv2d(12, 12, 1, groups=2), nn.Conv2d(12, 2, 1)]
    gm = traced(nn.Sequential(*layers), torch.randn(2, 2, 4, 4))
    groups = score_groups(gm, analyze_channels(gm), L1())
    assert [(g.units, g.width) for g in groups] == [(6, 2), (6, 2), (2, 1)]


class Halves(nn.Module):
    """The channels of one layer go, half and half, to two others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(2, 6), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        y: Tensor = self.a(left) + self.b(right)
        return y


def test_the_best_unit_of_each_half_stays_so_that_none_is_emptied() -> None:
    first = scored(traced(Halves(), torch.randn(2, 2)), 1.0, 5.0, 3.0, 9.0, 8.0, 7.0)[0]
    atoms = [unit.atom for unit in first.group.units]
    assert first.order == (atoms[0], atoms[2], atoms[5], atoms[4])


def test_the_layers_of_a_group_are_those_that_make_its_channels() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(2, 4), nn.Linear(2, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.out(self.a(x) + self.b(x))
            return y

    first = scored(traced(Tied(), torch.randn(2, 2)), 1.0, 2.0, 3.0, 4.0)[0]
    assert [layer.name for layer in first.layers] == ["linear", "linear_1"]


def test_groups_of_the_same_operators_have_the_same_structure_at_any_size() -> None:
    gm = linears(2, 4, 4, 4, 3)
    first, second, third, last = scored(gm, 1.0, 2.0, 3.0, 4.0)
    assert first.structure == second.structure == third.structure != last.structure
    assert first.structure == (
        ("linear", "weight", 0),
        ("linear", "bias", 0),
        ("linear", "weight", 1),
    )


def test_a_baseline_tells_how_many_units_have_gone() -> None:
    baseline, smaller = Baseline.of(linears(2, 9, 3)), linears(2, 4, 3)
    groups = score_groups(smaller, analyze_channels(smaller), Given((1.0,) * 4), baseline)
    assert [(g.original, g.units, g.gone) for g in groups] == [(9, 4, 5), (3, 3, 0)]
    assert baseline.cost.macs == 2 * 9 + 9 * 3


def test_a_baseline_of_another_model_is_refused() -> None:
    gm = linears(2, 4, 3)
    with pytest.raises(PassError, match="the baseline has 3 groups of channels, the graph has 2"):
        score_groups(gm, analyze_channels(gm), Given((1.0,) * 4), Baseline.of(linears(2, 4, 4, 3)))
