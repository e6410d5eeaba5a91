"""The terms of a distillation are the formulas of their papers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qpc.training.distillation_terms import attention, hint, similarity, soft_targets


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_targets_are_the_divergence_times_the_square_of_the_temperature(
    temperature: float,
) -> None:
    student, teacher = values(3, 5), values(3, 5, seed=1)
    p, q = ((v.double() / temperature).softmax(1) for v in (teacher, student))
    expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
    assert soft_targets(student, teacher, temperature, 1).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_their_gradient_at_a_high_temperature_is_that_of_matching_logits() -> None:
    """Section 2.1 of the paper: (z - v) / classes for logits whose mean is zero."""
    student, teacher = (v - v.mean(1, keepdim=True) for v in (values(1, 5), values(1, 5, seed=1)))
    student = student.double().requires_grad_()
    soft_targets(student, teacher.double(), 1e3, 1).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 5, rtol=0, atol=1e-3)


def test_places_of_an_image_count_as_samples_do() -> None:
    student, teacher = values(2, 5, 3, 4), values(2, 5, 3, 4, seed=1)
    ours, theirs = (v.movedim(1, -1).reshape(-1, 5) for v in (student, teacher))
    torch.testing.assert_close(
        soft_targets(student, teacher, 2.0, 1), soft_targets(ours, theirs, 2.0, 1)
    )


def test_attention_compares_where_values_are_large_whatever_their_size_and_width() -> None:
    teacher = values(2, 6, 3, 3)
    assert attention(teacher, teacher).item() == 0
    assert attention(5 * teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    doubled = torch.cat([teacher, teacher], 1)
    assert attention(doubled, teacher).item() == pytest.approx(0, abs=1e-6)
    ours, theirs = torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 2, 1)
    ours[0, 0, 0], theirs[0, 0, 1] = 3, 7
    assert attention(ours, theirs).item() == pytest.approx(2)  # of two orthogonal unit vectors


def test_hints_go_through_a_projection_of_channels() -> None:
    student, teacher, weight = values(2, 3, 4), values(2, 5, 4, seed=1), values(5, 3, seed=2)
    expected = (torch.nn.functional.conv1d(student, weight[:, :, None]) - teacher).square().mean()
    torch.testing.assert_close(hint(student, teacher, weight), expected)
    torch.testing.assert_close(hint(teacher, 0 * teacher, None), teacher.square().mean())


def test_similarity_is_of_samples_and_not_of_channels() -> None:
    teacher = values(3, 4)
    assert similarity(torch.cat([teacher, teacher], 1), teacher).item() == pytest.approx(0)
    ours, theirs = torch.eye(2), torch.ones(2, 2)
    row = (1 - math.sqrt(0.5)) ** 2 + 0.5  # (1, 0) against (1, 1) / sqrt(2)
    assert similarity(ours, theirs).item() == pytest.approx(2 * row / 4)


@given(st.integers(0, 3), st.integers(1, 4), st.sampled_from([torch.float32, torch.bfloat16]))
def test_every_term_is_a_finite_float32_and_zero_for_equals(
    batch: int, channels: int, dtype: torch.dtype
) -> None:
    teacher = values(batch, channels, 2, 2).to(dtype)
    zeros = torch.zeros_like(teacher, requires_grad=True)
    for term in (
        lambda s, t: soft_targets(s, t, 4.0, 1),
        attention,
        lambda s, t: hint(s, t, None),
        similarity,
    ):
        assert term(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
        loss = term(zeros, teacher)
        assert loss.dtype is torch.float32
        loss.backward()
        assert zeros.grad is not None
        assert zeros.grad.isfinite().all()
        assert loss.isfinite()
