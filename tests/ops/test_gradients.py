"""What a backward pass does at observers and at fake quantization."""

from __future__ import annotations

import pytest
import torch

from qpc.calls import qpc_ops

SCALE, ZERO = torch.tensor([0.5]), torch.tensor([3])


def leaf() -> torch.Tensor:
    return torch.tensor([0.3, -0.2, 9.0], requires_grad=True)


def test_an_observer_passes_gradients_on() -> None:
    x = leaf()
    (qpc_ops.observe(x, "observers.x") * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 3.0]


def test_rounding_passes_gradients_on_within_its_grid() -> None:
    x = leaf()
    (qpc_ops.fake_quantize(x, SCALE, ZERO, 0, 7) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 0.0]  # 9.0 is above the highest point, 2.0


def test_scales_and_zero_points_learn_as_fast_as_they_are_told() -> None:
    found = []
    for factor in (1.0, 0.25):
        scale, zero = (
            torch.tensor([0.5], requires_grad=True),
            torch.tensor([3.0], requires_grad=True),
        )
        qpc_ops.fake_quantize(leaf(), scale, zero, 0, 7, 0, 1, factor).sum().backward()
        assert scale.grad is not None
        assert zero.grad is not None
        found.append([scale.grad.item(), zero.grad.item()])
    # 0.6 and -0.4 steps are rounded to 1 and 0, and 9.0 is clipped to the fourth step
    assert found[0] == pytest.approx([0.4 + 0.4 + 4, -0.5])
    assert found[1] == pytest.approx([value / 4 for value in found[0]])


def test_without_anything_to_learn_there_is_no_gradient() -> None:
    assert not qpc_ops.fake_quantize(leaf().detach(), SCALE, ZERO, 0, 7).requires_grad
    with torch.no_grad():
        assert qpc_ops.fake_quantize(leaf(), SCALE, ZERO, 0, 7).tolist() == [0.5, 0.0, 2.0]
