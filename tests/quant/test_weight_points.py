"""Points of weights are chosen by what they do to outputs."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qpc.quant.weight_points import (
    Compensation,
    Learning,
    compensated_points,
    fitted_scales,
    learned_points,
    nearest_points,
    output_errors,
)

LIMIT = 7


def problem(seed: int = 0, groups: int = 2, taps: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, scales without clipping, and inputs that share one strong component."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, 5, taps, generator=generator)
    common = 5.0 * torch.randn(groups, 200, 1, generator=generator)
    inputs = torch.randn(groups, 200, taps, generator=generator) + common
    scales = weight.abs().amax(2, keepdim=True) / LIMIT
    return weight, scales, inputs


def error(points: Tensor, scales: Tensor, weight: Tensor, inputs: Tensor) -> float:
    return float(output_errors(points, scales, inputs, inputs @ weight.transpose(1, 2)).sum())


def test_fitted_scales_are_never_worse_than_those_given() -> None:
    weight, scales, inputs = problem()
    targets = inputs @ weight.transpose(1, 2)
    fitted = fitted_scales(weight, scales, LIMIT, inputs, targets)
    before = output_errors(nearest_points(weight, scales, LIMIT), scales, inputs, targets)
    after = output_errors(nearest_points(weight, fitted, LIMIT), fitted, inputs, targets)
    assert bool((after <= before).all())
    assert float(after.sum()) < 0.8 * float(before.sum())


def test_one_scale_for_all_stays_one() -> None:
    weight, scales, inputs = problem()
    one = scales.amax().reshape(1, 1, 1)
    fitted = fitted_scales(weight, one, LIMIT, inputs, inputs @ weight.transpose(1, 2))
    assert fitted.shape == (1, 1, 1)


def test_compensation_beats_rounding_to_nearest_where_inputs_are_correlated() -> None:
    weight, scales, inputs = problem()
    nearest = error(nearest_points(weight, scales, LIMIT), scales, weight, inputs)
    for ordered in (False, True):
        how = Compensation(damping=0.01, block=5, ordered=ordered)
        points = compensated_points(weight, scales, LIMIT, inputs, how)
        assert error(points, scales, weight, inputs) < 0.3 * nearest


@settings(max_examples=10, deadline=None)
@given(block=st.integers(1, 20), seed=st.integers(0, 3))
def test_the_size_of_blocks_does_not_matter(block: int, seed: int) -> None:
    weight, scales, inputs = problem(seed)
    found = [
        compensated_points(weight, scales, LIMIT, inputs, Compensation(0.01, size, True))
        for size in (block, 12)
    ]
    assert torch.equal(found[0], found[1])


def test_inputs_that_are_always_zero_leave_weights_at_the_nearest_point() -> None:
    weight, scales, inputs = problem()
    inputs[:, :, 3] = 0.0
    points = compensated_points(weight, scales, LIMIT, inputs, Compensation(0.01, 128, True))
    assert torch.equal(points[:, :, 3], nearest_points(weight, scales, LIMIT)[:, :, 3])


def test_weights_aim_at_targets_that_differ_from_their_own() -> None:
    weight, scales, inputs = problem()
    wanted = inputs @ (1.3 * weight).transpose(1, 2)  # as if what comes in were too small
    how = Compensation(0.01, 128, True)
    errors = [
        float(
            output_errors(
                compensated_points(weight, 1.3 * scales, LIMIT, inputs, how, targets),
                1.3 * scales,
                inputs,
                wanted,
            ).sum()
        )
        for targets in (None, wanted)
    ]
    assert errors[1] < 0.3 * errors[0]


def learned(
    weight: Tensor, scales: Tensor, inputs: Tensor, steps: int = 300, regulariser: float = 3.0
) -> Tensor:
    targets = inputs @ weight.transpose(1, 2)
    how = Learning(steps=steps, batch=64, regulariser=regulariser, rate=0.1)
    bias = torch.zeros(weight.shape[:2])
    return learned_points(weight, bias, scales, LIMIT, inputs, targets, None, how)


def test_learned_rounding_goes_up_or_down_and_beats_the_nearest() -> None:
    weight, scales, inputs = problem()
    points = learned(weight, scales, inputs)
    assert float((points - weight / scales).abs().max()) < 1.0 + 1e-5
    nearest = error(nearest_points(weight, scales, LIMIT), scales, weight, inputs)
    assert error(points, scales, weight, inputs) < 0.3 * nearest


def test_what_drives_weights_to_points_is_as_strong_however_many_weights_there_are() -> None:
    weight, scales, inputs = one = problem(groups=1)
    alone = learned(weight, scales, inputs, 60, 3e-5)
    weight, scales, inputs = (each.repeat(20, 1, 1) for each in one)
    assert torch.equal(learned(weight, scales, inputs, 60, 3e-5), alone.repeat(20, 1, 1))


def test_masked_weights_stay_zero() -> None:
    weight, scales, inputs = problem()
    weight[:, :, ::2] = 0.0
    how = Compensation(0.01, 128, True)
    for points in (
        compensated_points(weight, scales, LIMIT, inputs, how),
        learned(weight, scales, inputs, steps=20),
    ):
        assert bool((points[:, :, ::2] == 0.0).all())


def test_points_stay_on_the_grid() -> None:
    weight, scales, inputs = problem()
    small = 0.3 * scales
    how = Compensation(0.01, 128, True)
    for points in (
        compensated_points(weight, small, LIMIT, inputs, how),
        learned(weight, small, inputs, steps=20),
    ):
        assert float(points.abs().max()) == LIMIT
        assert torch.equal(points, points.round())
