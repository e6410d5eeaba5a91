"""What a backward pass does at observers and at fake quantization."""

from __future__ import annotations

import pytest
import torch

from qpc.calls import qpc_ops
from qpc.errors import PassError

SCALE, ZERO = torch.tensor([0.5]), torch.tensor([3])


def leaf() -> torch.Tensor:
    return torch.tensor([0.3, -0.2, 9.0], requires_grad=True)


def test_an_observer_passes_gradients_on() -> None:
    x = leaf()
    (qpc_ops.observe(x, "observers.x") * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 3.0]


def test_a_backward_pass_through_rounding_is_an_error_and_not_zero() -> None:
    x = leaf()
    loss = qpc_ops.fake_quantize(x, SCALE, ZERO, 0, 7).sum()
    with pytest.raises(PassError, match="gradients cannot pass qpc::fake_quantize") as caught:
        loss.backward()
    assert caught.value.fix == (
        "train or prune the float graph that qpc.trace returned, then quantize it"
    )
    assert x.grad is None


def test_rounding_itself_needs_no_gradient() -> None:
    with torch.no_grad():
        assert qpc_ops.fake_quantize(leaf(), SCALE, ZERO, 0, 7).tolist() == [0.5, 0.0, 2.0]
    assert not qpc_ops.fake_quantize(leaf().detach(), SCALE, ZERO, 0, 7).requires_grad
