"""Means of channels, taken down batch by batch."""

from __future__ import annotations

import pytest
import torch

from qpc.analysis.channel_means import ChannelMeans, channel_means


@pytest.mark.parametrize(("shape", "axis"), [((5, 3, 40, 40), 1), ((5, 60, 3), -1), ((5, 3), 1)])
def test_means_are_those_of_float64_to_a_few_parts_in_ten_million(
    shape: tuple[int, ...], axis: int
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1.0
    others = [d for d in range(x.dim()) if d != axis % x.dim()]
    exact = x.double().mean(others)
    assert torch.allclose(channel_means([x[:2], x[2:]], axis), exact, rtol=5e-7, atol=0.0)


def test_the_first_samples_are_all_that_count_and_can_be_forgotten() -> None:
    means = ChannelMeans(samples=3)
    means.add("conv", torch.ones(2, 4), 1)
    means.seen = 2
    assert means.left == 1
    assert means.covers(["conv"], 3)
    assert not means.covers(["conv"], 4)
    assert not means.covers(["conv", "fc"], 3)
    means.clear()
    assert means.left == 3
    assert not means.covers(["conv"], 3)
