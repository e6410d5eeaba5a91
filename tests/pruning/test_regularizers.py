from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.channels.groups import ChannelAnalysis, analyze_channels
from qpc.channels.masks import masked_atoms
from qpc.errors import PassError
from qpc.masks import set_mask
from qpc.pruning.regularizers import L1, L2, GroupLasso, GrowingL2, Regularizer
from qpc.pruning.weight_layers import Scope
from qpc.testing import randomized, traced

X = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))


def two_layers(first: list[list[float]], second: list[list[float]]) -> GraphModule:
    """A linear layer, ReLU, and a linear layer, with the given weights and no biases."""
    one = nn.Linear(len(first[0]), len(first), bias=False)
    two = nn.Linear(len(second[0]), len(second), bias=False)
    with torch.no_grad():
        one.weight.copy_(torch.tensor(first))
        two.weight.copy_(torch.tensor(second))
    return traced(nn.Sequential(one, nn.ReLU(), two), X)


def gradients(regularizer: Regularizer, gm: GraphModule) -> list[list[list[float]]]:
    regularizer.penalty(gm).backward()
    found = [gm.get_parameter(name).grad for name in ("0.weight", "2.weight")]
    return [g.tolist() if g is not None else [] for g in found]


def test_l1_sums_absolute_weights_and_pulls_with_equal_force() -> None:
    gm = two_layers([[1.0, -2], [0, 4]], [[0.5, -1]])
    assert L1(2).penalty(gm).item() == 2 * 8.5
    assert gradients(L1(2), gm) == [[[2, -2], [0, 2]], [[2, -2]]]


def test_l2_sums_squares_and_pulls_in_proportion() -> None:
    gm = two_layers([[1.0, -2], [0, 4]], [[0.5, -1]])
    assert L2(2).penalty(gm).item() == 2 * (21 + 1.25)
    assert gradients(L2(2), gm) == [[[4, -8], [0, 16]], [[2, -4]]]


@pytest.mark.parametrize(("regularizer", "value"), [(L1, 1.5), (L2, 1.25)])
def test_a_scope_limits_the_penalty(regularizer: type[L1 | L2], value: float) -> None:
    gm = two_layers([[1.0, -2], [0, 4]], [[0.5, -1]])
    assert regularizer(1, Scope(module="2")).penalty(gm).item() == value
    with pytest.raises(PassError, match=r"no layer with a weight is in Scope\(module='3'"):
        regularizer(1, Scope(module="3")).penalty(gm)


def test_group_lasso_takes_what_makes_a_channel_and_what_reads_it_together() -> None:
    gm = two_layers([[1.0, 2], [0, 0]], [[2, 0]])
    lasso = GroupLasso(2, analyze_channels(gm))
    assert lasso.penalty(gm).item() == pytest.approx(2 * math.sqrt(3) * 3)
    force = 2 * math.sqrt(3) / 3  # strength * sqrt(size) / norm
    first, second = map(torch.tensor, gradients(lasso, gm))
    assert torch.allclose(first, force * torch.tensor([[1.0, 2], [0, 0]]))
    assert torch.allclose(second, force * torch.tensor([[2.0, 0]]))


def test_group_lasso_counts_biases_and_norms_of_a_channel_but_no_running_statistics() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 4, 1, bias=False)
    )
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    gm = traced(model, torch.randn(2, 1, 2, 2))
    size = 1 + 1 + 2 + 4  # weight, bias, gamma and beta, four columns of the linear layer
    assert GroupLasso(1, analyze_channels(gm)).penalty(gm).item() == pytest.approx(2 * size)


def test_group_lasso_drives_a_useless_channel_towards_zero_and_spares_a_useful_one() -> None:
    gm = two_layers([[1.0, 1.0], [0.3, -0.2]], [[1.0, 0.1]])
    target = torch.relu(X.sum(1, keepdim=True))
    lasso = GroupLasso(0.05, analyze_channels(gm))
    optimizer = torch.optim.SGD(gm.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        (nn.functional.mse_loss(gm(X), target) + lasso.penalty(gm)).backward()
        optimizer.step()
    useful, useless = gm.get_parameter("0.weight").detach().norm(dim=1)
    assert useful > 0.8
    assert useless < 0.05


def test_growing_regularization_grows_step_by_step_up_to_its_ceiling() -> None:
    analysis = analyze_channels(two_layers([[1.0, 2], [0, 0]], [[2, 0]]))
    growing = GrowingL2(analysis, growth=0.25, every=10, ceiling=0.6)
    steps = (0, 9, 10, 25, 1000)
    assert [growing.at(step).strength for step in steps] == [0, 0, 0.25, 0.5, 0.6]


def test_growing_regularization_is_over_all_units_or_those_to_be_removed() -> None:
    gm = two_layers([[1.0, 2], [3, 4]], [[5, 6]])
    analysis = analyze_channels(gm)
    everything = GrowingL2(analysis, growth=1, every=1).at(1)
    assert everything.penalty(gm).item() == (1 + 4 + 25 + 9 + 16 + 36) / 2
    set_mask(gm, "0.weight", 0, torch.tensor([False, True]))
    going = GrowingL2(analysis, masked_atoms(gm, analysis), growth=1, every=1).at(1)
    assert going.penalty(gm).item() == (9 + 16 + 36) / 2
    assert gradients(going, gm) == [[[0, 0], [3, 4]], [[0, 6]]]


def test_channels_that_must_stay_are_free() -> None:
    gm = traced(randomized(nn.Sequential(nn.Linear(2, 3))), X)
    analysis = analyze_channels(gm)
    assert GroupLasso(1, analysis).penalty(gm).item() == 0
    assert GrowingL2(analysis, growth=1, every=1, step=1).penalty(gm).item() == 0


def analysis_of_nothing() -> ChannelAnalysis:
    return analyze_channels(traced(nn.ReLU(), X))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda _: L1(-1), "strength must be at least 0, got -1"),
        (lambda _: L2(-1), "strength must be at least 0, got -1"),
        (lambda a: GroupLasso(float("nan"), a), "strength must be at least 0, got nan"),
        (lambda a: GrowingL2(a, growth=-1), "growth must be at least 0, got -1"),
        (lambda a: GrowingL2(a, ceiling=-1), "ceiling must be at least 0, got -1"),
        (lambda a: GrowingL2(a, every=0), "every must be at least 1, got 0"),
        (lambda a: GrowingL2(a).at(-1), "step must be at least 0, got -1"),
    ],
)
def test_refuses_impossible_settings(build: object, text: str) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=text):
        build(analysis_of_nothing())


def test_penalties_add_up_with_the_loss() -> None:
    gm = two_layers([[1.0, -2], [0, 4]], [[0.5, -1]])
    loss: Tensor = gm(X).square().mean() + L1(1).penalty(gm) + L2(1).penalty(gm)
    loss.backward()
    assert gm.get_parameter("0.weight").grad is not None
