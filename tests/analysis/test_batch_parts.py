"""Batches are taken in parts only where samples do not depend on each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qpc.analysis.batch_parts import in_parts, samples_at_a_time
from qpc.testing import traced


class MeansOverSamples(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_the_largest_value_decides_how_many_samples_go_at_once() -> None:
    small = traced(nn.Linear(4, 2**16), torch.ones(2, 4))
    large = traced(nn.Linear(4, 2**18), torch.ones(2, 4))
    assert samples_at_a_time(small) == 64
    assert samples_at_a_time(large) == 16


def test_samples_that_depend_on_each_other_stay_together() -> None:
    assert samples_at_a_time(traced(MeansOverSamples(), torch.ones(2, 4))) is None


def test_parts_are_the_batch_in_order_and_end_where_asked() -> None:
    x, y = torch.arange(10), torch.arange(10) * 2
    parts = list(in_parts([x, y], 4, first=6))
    assert [len(a) for a, _ in parts] == [4, 2, 4]
    assert torch.equal(torch.cat([a for a, _ in parts]), x)
    assert torch.equal(torch.cat([b for _, b in parts]), y)
    assert [len(a) for (a,) in in_parts([x], None)] == [10]
    assert [len(a) for (a,) in in_parts([x[:0]], 4)] == [0]
