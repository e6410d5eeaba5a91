"""Batches are matched to the inputs of a graph, and misfits are named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.batches import Batch, batch_length, inputs_of
from qpc.errors import CalibrationError


class One(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


class Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right


X, Y = torch.zeros(2, 3), torch.ones(2, 3)


def test_one_input_takes_a_tensor_or_the_first_of_several() -> None:
    gm = qpc.trace(One(), X)
    for batch in (X, [X], (X, torch.tensor([0, 1])), {"x": X, "labels": Y}):
        (found,) = inputs_of(gm, batch, 0)
        assert found is X


def test_several_inputs_come_in_order_or_by_name() -> None:
    gm = qpc.trace(Two(), (X, Y))
    for batch in ([X, Y], {"right": Y, "left": X}):
        left, right = inputs_of(gm, batch, 0)
        assert left is X
        assert right is Y


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            torch.zeros(2, 4),
            r"batch 7 has shape \(2, 4\) for 'left'; the graph takes \(N, 3\), where",
        ),
        ([X, torch.zeros(3)], r"batch 7 has shape \(3,\) for 'right'"),
        ([X], r"batch 7 has 1 tensors; the graph takes 2 inputs \['left', 'right'\]"),
        ({"left": X}, "batch 7 has no 'right'"),
        ([X, Y.double()], r"batch 7 has torch.float64 for 'right'; the graph takes torch.float32"),
        ([X, "images"], "batch 7 holds str for 'right'; the graph takes a tensor"),
    ],
)
def test_a_misfit_is_named(batch: Batch, message: str) -> None:
    gm = qpc.trace(Two(), (X, Y))
    if isinstance(batch, Tensor):
        batch = [batch, Y]
    with pytest.raises(CalibrationError, match=message):
        inputs_of(gm, batch, 7)


def test_length_is_that_of_the_first_tensor() -> None:
    assert [batch_length(b) for b in (X, [X, Y], {"x": X}, [])] == [2, 2, 2, 0]
