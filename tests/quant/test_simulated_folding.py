"""Steps of weights that a batch norm will multiply, and biases as integers will have them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qpc.calls import qpc_ops
from qpc.quant.fake_quantization import Rounding
from qpc.quant.simulated_folding import FoldedNorm, UnfoldedStep, rounded_bias

GAMMA = torch.tensor([0.5, -2.0, 1.0])
VARIANCE = torch.tensor([4.0, 0.25, 1.0])
NORM = FoldedNorm(GAMMA, torch.tensor([0.1, 0.2, -0.3]), VARIANCE, 0.0)
FACTORS = torch.tensor([0.25, -4.0, 1.0])


def test_rounding_with_the_unfolded_step_is_rounding_the_folded_weight() -> None:
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    step, zero = torch.tensor([0.125]), torch.zeros(3, dtype=torch.int64)
    unfolded = Rounding(UnfoldedStep(step, NORM).value(), zero, -7, 7).apply(weight)
    folded = Rounding(step, zero[:1], -7, 7).apply(weight * FACTORS[:, None])
    assert torch.equal(unfolded * FACTORS[:, None], folded)


def test_gradients_match_finite_differences() -> None:
    def call(step: Tensor, gamma: Tensor) -> Tensor:
        found: Tensor = qpc_ops.unfold_step.default(step, gamma, VARIANCE, 1e-5, 0.5)
        return found

    step, gamma = torch.tensor([0.1], requires_grad=True), GAMMA.clone().requires_grad_()
    up = torch.tensor([1.0, 0.5, -2.0])
    call(step, gamma).backward(up)
    assert step.grad is not None
    assert gamma.grad is not None
    small = 1e-3
    with torch.no_grad():
        slope = (call(step + small, gamma) - call(step - small, gamma)) @ up / (2 * small)
        torch.testing.assert_close(step.grad, 0.5 * slope[None], rtol=1e-3, atol=1e-4)
        for channel in range(3):
            move = small * torch.eye(3)[channel]
            slope = (call(step, gamma + move) - call(step, gamma - move)) @ up / (2 * small)
            torch.testing.assert_close(gamma.grad[channel], slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("gamma", "variance"), [(0.0, 1.0), (1e-38, 1.0), (1.0, 0.0)])
def test_channels_at_the_edge_have_finite_steps_and_gradients(
    gamma: float, variance: float
) -> None:
    norm = FoldedNorm(torch.tensor([gamma]), None, torch.tensor([variance]), 0.0)
    unfolded = UnfoldedStep(torch.tensor([0.1]), norm)
    values = (unfolded.value(), *unfolded.gradients(torch.ones(1)))
    assert all(v is not None and bool(v.isfinite().all()) for v in values)


def test_a_bias_is_a_multiple_of_both_scales() -> None:
    bias, scales = torch.tensor([0.33, -1.0]), torch.tensor([0.5, 0.25])
    found = rounded_bias(bias, torch.tensor([-0.5]), scales)  # a learned scale may be negative
    assert found.tolist() == [0.25, -1.0]


def test_the_bias_of_a_norm_makes_the_folded_one_a_multiple() -> None:
    beta, layer_bias = torch.tensor([0.3, 0.7, -0.2]), torch.tensor([1.0, 0.0, 0.5])
    scale, steps = torch.tensor([0.5]), torch.tensor([0.5, 0.125, 0.25])
    assert NORM.running_mean is not None
    found = NORM.rounded_bias(beta, layer_bias, scale, steps)
    units = 0.5 * steps * FACTORS.abs()
    folded = (layer_bias - NORM.running_mean) * FACTORS + found
    torch.testing.assert_close(folded / units, (folded / units).round(), rtol=0, atol=1e-4)
    assert ((found - beta).abs() <= 0.51 * units).all()


def test_a_bias_learns_as_if_it_were_not_rounded() -> None:
    bias = torch.tensor([0.33], requires_grad=True)
    qpc_ops.round_bias.default(bias, torch.tensor([0.5]), torch.tensor([1.0])).backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [1.0]
