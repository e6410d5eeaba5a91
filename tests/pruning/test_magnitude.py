from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.channels.groups import analyze_channels
from qpc.pruning.criteria import Criterion
from qpc.pruning.magnitude import FPGM, L1, L2, LAMP, BatchNormScale, Random
from qpc.testing import traced

W = torch.tensor([[3.0, -4], [0, 1], [-2, 2], [3, -4]])
X = torch.randn(2, 2)


def two_layers(weight: Tensor = W) -> GraphModule:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].get_parameter("weight").copy_(weight)
    return traced(model, X)


def scores(criterion: Criterion, gm: GraphModule | None = None, group: int = 0) -> list[float]:
    gm = gm if gm is not None else two_layers()
    analysis = analyze_channels(gm)
    found: list[float] = criterion.scores(gm, analysis, analysis.groups[group]).tolist()
    return found


def test_l1_sums_magnitudes() -> None:
    assert scores(L1(normalize="none")) == [7, 1, 4, 7]


def test_l2_is_the_euclidean_norm() -> None:
    assert scores(L2(normalize="none")) == pytest.approx([5, 1, math.sqrt(8), 5])


def test_norms_are_relative_to_the_groups_mean_unless_told_otherwise() -> None:
    assert scores(L1()) == pytest.approx([7 / 4.75, 1 / 4.75, 4 / 4.75, 7 / 4.75])
    assert sum(scores(L2())) == pytest.approx(4)
    assert sum(scores(FPGM())) == pytest.approx(4)


def test_fpgm_sums_the_distances_to_all_other_channels() -> None:
    expected = [sum(math.dist(a, b) for b in W.tolist()) for a in W.tolist()]
    assert scores(FPGM(normalize="none")) == pytest.approx(expected, abs=1e-6)


def test_lamp_divides_by_the_energy_of_all_channels_that_are_not_smaller() -> None:
    # energies 25, 1, 8, 25; of the two equal ones the first counts as the smaller
    assert scores(LAMP()) == pytest.approx([25 / 50, 1 / 59, 8 / 58, 25 / 25])


def test_lamp_of_a_layer_of_zeros_is_zero() -> None:
    assert scores(LAMP(), two_layers(torch.zeros(4, 2))) == [0, 0, 0, 0]


def test_batch_norm_scale_is_the_magnitude_of_gamma() -> None:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -2, 1]))
    gm = traced(
        nn.Sequential(nn.Conv2d(2, 3, 1), norm, nn.Conv2d(3, 2, 1)), torch.randn(2, 2, 4, 4)
    )
    assert scores(BatchNormScale(), gm) == [0.5, 2, 1]


def test_batch_norm_scale_cannot_judge_channels_without_batch_norm() -> None:
    assert all(map(math.isnan, scores(BatchNormScale())))


def test_random_scores_depend_on_the_seed_and_the_group_alone() -> None:
    assert scores(Random()) == scores(Random(), two_layers(2 * W))
    assert scores(Random()) != scores(Random(seed=1))
    gm = traced(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), torch.randn(2, 4))
    assert scores(Random(), gm, 0) != scores(Random(), gm, 1)
