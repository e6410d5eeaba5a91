from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from qpc.channels.groups import analyze_channels
from qpc.errors import CalibrationError, PassError
from qpc.hashing import fingerprint
from qpc.pruning.criteria import Criterion
from qpc.pruning.gradients import HessianDiagonal, Taylor
from qpc.testing import traced


def small() -> GraphModule:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False))
    return traced(model, torch.randn(2, 2))


def scores(criterion: Criterion, gm: GraphModule, group: int = 0) -> Tensor:
    analysis = analyze_channels(gm)
    return criterion.scores(gm, analysis, analysis.groups[group])


def without(gm: GraphModule, name: str, channel: int) -> dict[str, Tensor]:
    weights = {key: value.detach().clone() for key, value in gm.named_parameters()}
    weights[name][channel] = 0
    return weights


def loss_of(gm: GraphModule, weights: dict[str, Tensor], x: Tensor, loss: Any) -> Tensor:
    found: Tensor = loss(torch.func.functional_call(gm, weights, x), x)
    return found


def total(output: Tensor, batch: object) -> Tensor:
    return output.sum()


@torch.no_grad()
def test_taylor_is_the_squared_change_of_a_loss_that_is_linear_in_the_weights() -> None:
    gm, batches = small(), [torch.randn(4, 2), torch.randn(4, 2)]
    full: dict[str, Tensor] = dict(gm.named_parameters())
    expected = []
    for channel in range(3):
        less = without(gm, "0.weight", channel)
        changes = [loss_of(gm, full, x, total) - loss_of(gm, less, x, total) for x in batches]
        expected.append(float(torch.stack(changes).square().mean()))
    found = scores(Taylor(batches=batches, loss=total), gm)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def squares(output: Tensor, batch: object) -> Tensor:
    return output.square().sum()


def exact_diagonal(gm: GraphModule, name: str, batches: list[Tensor], loss: Any) -> Tensor:
    weights = {key: value.detach() for key, value in gm.named_parameters()}

    def of(weight: Tensor) -> Tensor:
        losses = [loss_of(gm, {**weights, name: weight}, x, loss) for x in batches]
        return torch.stack(losses).mean()

    weight = weights[name]
    hessian = torch.autograd.functional.hessian(of, weight)
    assert isinstance(hessian, Tensor)
    return hessian.reshape(weight.numel(), -1).diagonal().reshape(weight.shape)


def test_the_hessian_diagonal_is_exact_where_the_hessian_is_diagonal() -> None:
    class SumOfSquares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.square(self.layer(x)).sum(1)

    model = SumOfSquares()
    with torch.no_grad():
        model.layer.weight.copy_(torch.tensor([[1.0], [2], [3]]))
    gm = traced(model, torch.ones(2, 1))
    found = scores(HessianDiagonal(batches=[torch.ones(1, 1)], loss=total), gm)
    assert found.tolist() == [1, 4, 9]  # the loss is the sum of w^2, so that h w^2 / 2 = w^2


def test_more_probes_come_nearer_to_the_hessian_diagonal() -> None:
    gm, batches = small(), [torch.randn(4, 2), torch.randn(4, 2)]
    weight = gm.get_parameter("0.weight").detach()
    expected = (exact_diagonal(gm, "0.weight", batches, squares) * weight**2 / 2).sum(1).double()
    errors = [
        (scores(HessianDiagonal(batches=batches, loss=squares, probes=n), gm) - expected).norm()
        for n in (1, 1000)
    ]
    assert errors[1] < 0.1 * expected.norm()
    assert errors[1] < errors[0]


def test_the_seed_sets_the_signs() -> None:
    gm, batches = small(), [torch.randn(4, 2)]
    found = [
        scores(HessianDiagonal(batches=batches, loss=squares, seed=seed), gm) for seed in (0, 0, 1)
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_attention_has_the_second_derivatives_that_are_needed() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.project(x)
            z: Tensor = self.out(F.scaled_dot_product_attention(y, y, y))
            return z

    x = torch.randn(2, 3, 4)
    criterion = HessianDiagonal(batches=[x], loss=squares)
    assert scores(criterion, traced(Attention(), x)).isfinite().all()


def test_labels_of_a_batch_reach_the_loss_and_the_graph_is_left_alone() -> None:
    gm = small()
    for parameter in gm.parameters():
        parameter.requires_grad_(False)
    before = fingerprint(gm)
    batch = (torch.randn(4, 2), torch.tensor([0, 1, 1, 0]))
    criterion = Taylor(batches=[batch], loss=lambda out, b: F.cross_entropy(out, b[1]))
    with torch.no_grad():
        assert (scores(criterion, gm) > 0).all()
    assert fingerprint(gm) == before
    assert all(parameter.grad is None for parameter in gm.parameters())


@pytest.mark.parametrize("kind", [Taylor, HessianDiagonal])
def test_a_loss_that_no_weight_changes_gives_zero(kind: Any) -> None:
    constant = kind(batches=[torch.randn(4, 2)], loss=lambda out, b: torch.tensor(1.0))
    assert scores(constant, small()).tolist() == [0, 0, 0]


def test_an_operator_without_second_derivative_is_an_error() -> None:
    x = torch.randn(2, 2)
    gm = traced(nn.Sequential(nn.Linear(2, 3), nn.Hardsigmoid(), nn.Linear(3, 2)), x)
    with pytest.raises(PassError, match="the second derivative of the loss cannot be"):
        scores(HessianDiagonal(batches=[x], loss=squares), gm)


@pytest.mark.parametrize("kind", [Taylor, HessianDiagonal])
def test_how_channels_are_joined_is_checked(kind: Any) -> None:
    for wrong in ({"aggregate": "median"}, {"normalize": "l2"}, {"role": "reading"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            kind(batches=[], loss=total, **wrong)


def test_no_batches_are_an_error() -> None:
    with pytest.raises(CalibrationError, match="there are no batches to judge channels by"):
        scores(Taylor(batches=[], loss=total), small())


def test_at_least_one_probe_is_needed() -> None:
    with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
        HessianDiagonal(batches=[], loss=total, probes=0)
