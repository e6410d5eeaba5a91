"""Gradients block by block are those of the whole tensor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qpc.quant import gradient_blocks
from qpc.quant.fake_quantization import Rounding
from qpc.quant.gradient_blocks import Blocks

ENDS = (-2.0, 13.0)


def values(seed: int) -> Tensor:
    return torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("block", [7, 60, 2**17])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_blocks_make_up_the_whole(
    block: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient_blocks, "_BLOCK", block)
    x, gradient = values(0).to(memory_format=layout), values(1)
    inside, at_step, clipped = Blocks(x, gradient, 10.0, ENDS).sums(of_clipped=True)
    v = x * 10
    within = (v > ENDS[0]) & (v < ENDS[1])
    assert torch.equal(inside, gradient * within)
    assert torch.equal(Blocks(x, gradient, 10.0, ENDS).inside(), inside)
    error = torch.where(within, v.round() - v, v.clamp(*ENDS))
    torch.testing.assert_close(at_step, (gradient * error).sum(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(clipped, (gradient * ~within).sum(), rtol=1e-5, atol=1e-5)


def test_nan_is_the_lowest_point() -> None:
    x = torch.tensor([torch.nan, 0.1])
    inside, at_step, _ = Blocks(x, torch.ones(2), 10.0, ENDS).sums(of_clipped=False)
    assert inside.tolist() == [0.0, 1.0]
    assert float(at_step) == pytest.approx(-2.0)


@pytest.mark.parametrize("x", [torch.empty(0, 3), torch.zeros(()), torch.zeros(2, 3)[:, ::2]])
def test_tensors_of_any_form_have_gradients(x: Tensor) -> None:
    rounding = Rounding(torch.tensor([0.1]), torch.tensor([2]), 0, 15)
    inside, at_step, at_zero = rounding.gradients(torch.ones_like(x), x)
    assert inside.shape == x.shape
    assert at_step.shape == (1,)
    assert at_zero is not None
