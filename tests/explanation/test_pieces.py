from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.explanation.pieces import pieces_of


class Sum(nn.Module):
    """Of all samples."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu().sum(0)


def traced(model: nn.Module) -> GraphModule:
    return qpc.trace(model.eval(), torch.randn(2, 4))


def test_batches_are_cut_where_values_would_need_too_much_memory() -> None:
    gm = traced(nn.ReLU())  # 16 bytes for a sample
    batches = [torch.randn(5, 4), torch.randn(2, 4)]
    found = pieces_of(gm, batches, longer=7, most_bytes=40)
    assert [(p.batch, p.samples) for p in found] == [(0, 2), (0, 2), (0, 1), (1, 2)]
    assert torch.equal(torch.cat([p.inputs[0] for p in found]), torch.cat(batches))
    assert all(p.longer for p in found)
    assert [p.samples for p in pieces_of(gm, batches, 7, most_bytes=1)] == [1] * 7


def test_the_first_samples_are_looked_at_longer_and_one_at_least() -> None:
    gm = traced(nn.ReLU())
    found = pieces_of(gm, [torch.randn(5, 4), torch.randn(2, 4)], longer=3)
    assert [(p.samples, p.longer) for p in found] == [(3, True), (2, False), (2, False)]
    assert pieces_of(gm, [torch.randn(5, 4)], longer=0)[0].longer


def test_what_joins_samples_is_not_cut() -> None:
    found = pieces_of(traced(Sum()), [torch.randn(5, 4), torch.randn(5, 4)], 1, most_bytes=1)
    assert [(p.samples, p.longer) for p in found] == [(5, True), (5, False)]
