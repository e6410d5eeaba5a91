from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.channels.groups import analyze_channels
from qpc.errors import CalibrationError
from qpc.pruning.activations import APoZ, HRank, MeanActivation
from qpc.pruning.criteria import Criterion
from qpc.testing import traced


def identity_convs() -> GraphModule:
    """Passes its input through a ReLU to a second convolution."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 3, 1))
    with torch.no_grad():
        model[0].get_parameter("weight").copy_(torch.eye(2)[:, :, None, None])
    return traced(model, torch.randn(2, 2, 2, 2))


def scores(criterion: Criterion, gm: GraphModule, group: int = 0) -> list[float]:
    analysis = analyze_channels(gm)
    found: list[float] = criterion.scores(gm, analysis, analysis.groups[group]).tolist()
    return found


def image(*channels: list[list[float]]) -> Tensor:
    return torch.tensor([channels], dtype=torch.float32)


FIRST = image([[1, -1], [2, 0]], [[-1, -1], [-1, 4]])
SECOND = image([[1, 2], [3, 6]], [[1, 2], [2, 4]]).repeat(3, 1, 1, 1)


def test_apoz_is_the_share_of_values_that_are_not_zero_after_the_activation() -> None:
    assert scores(APoZ(batches=[FIRST]), identity_convs()) == [2 / 4, 1 / 4]


def test_batches_count_by_their_size() -> None:
    found = scores(APoZ(batches=[FIRST, SECOND]), identity_convs())
    assert found == [(2 + 12) / 16, (1 + 12) / 16]


def test_mean_activation_is_the_mean_magnitude() -> None:
    assert scores(MeanActivation(batches=[FIRST]), identity_convs()) == [3 / 4, 4 / 4]


def test_hrank_is_the_average_rank_of_feature_maps() -> None:
    # FIRST: [[1, 0], [2, 0]] and [[0, 0], [0, 4]]; SECOND: [[1, 2], [3, 6]] and [[1, 2], [2, 4]]
    full = image([[1, 2], [3, 4]], [[0, 0], [0, 0]])
    assert scores(HRank(batches=[FIRST, SECOND]), identity_convs()) == [1, 1]
    assert scores(HRank(batches=[FIRST, full]), identity_convs()) == [1.5, 0.5]


def test_hrank_cannot_judge_values_that_are_no_feature_maps() -> None:
    gm = traced(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(2, 4))
    assert all(map(math.isnan, scores(HRank(batches=[torch.randn(2, 4)]), gm)))


def test_all_places_of_a_flattened_channel_count() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].get_parameter("weight").copy_(torch.eye(2)[:, :, None, None])
    gm = traced(model, FIRST)
    assert scores(MeanActivation(batches=[FIRST]), gm) == [4 / 4, 7 / 4]
    assert scores(MeanActivation(batches=[FIRST], aggregate="max"), gm) == [2, 4]


def test_the_operands_of_products_are_measured_too() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = nn.Linear(2, 3, bias=False), nn.Linear(2, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.query(x) @ self.key(x).transpose(1, 2)
            return y

    x = torch.randn(2, 4, 2)
    gm = traced(Product(), x)
    weights = gm.get_parameter("query.weight"), gm.get_parameter("key.weight")
    expected = torch.stack([(x @ w.detach().T).abs().mean((0, 1)) for w in weights]).mean(0)
    assert scores(MeanActivation(batches=[x]), gm) == pytest.approx(expected.tolist())


def test_data_is_run_once_for_all_groups() -> None:
    gm = traced(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), torch.randn(2, 4))
    analysis = analyze_channels(gm)
    used_up = iter([torch.randn(2, 4)])
    ready = MeanActivation(batches=used_up).prepared(gm, analysis)
    for group in analysis.groups[:2]:
        assert not ready.scores(gm, analysis, group).isnan().any()


def test_no_batches_are_an_error() -> None:
    with pytest.raises(CalibrationError, match="there are no batches to judge channels by"):
        scores(APoZ(batches=[]), identity_convs())
