"""Batches are matched to the inputs of a graph, and misfits are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.batches import Batch, batch_length, checked_batches, inputs_of
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


@pytest.mark.parametrize(
    ("batches", "got", "fix"),
    [
        (X, "one tensor of shape (2, 3)", "pass [batch], or batch.split(32) for many samples"),
        (np.zeros((2, 3)), "one array of shape (2, 3)", "pass [torch.from_numpy(batch)]"),
        ({"x": X, "y": Y}, "one mapping of 'x', 'y'", "pass [batch]"),
        ("data", "str", "pass a list of tensors or a DataLoader"),
        (3, "int", "pass a list of tensors or a DataLoader"),
    ],
)
def test_one_batch_is_told_from_many(batches: Any, got: str, fix: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        checked_batches(batches)
    assert caught.value.what == f"calibration needs an iterable of batches, got {got}"
    assert caught.value.fix == fix


def test_what_is_iterable_is_taken_as_it_is() -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y))
    for batches in ([X], (X,), (x for x in [X]), loader, X.split(1)):
        assert checked_batches(batches) is batches


@pytest.mark.parametrize(
    ("batch", "message", "fix"),
    [
        (
            X[0],
            "has shape (3,) for 'x'",
            "give it an axis for the batch: x[None]",
        ),
        (np.zeros((2, 3), np.float32), "is ndarray", "torch.from_numpy(array)"),
        ([np.zeros((2, 3))], "holds ndarray for 'x'", "torch.from_numpy(array)"),
        ([[1.0, 2.0, 3.0]], "holds list for 'x'", "preprocess the data exactly like the"),
        (X.half(), "has torch.float16 for 'x'", "convert it: x.to(torch.float32)"),
        (X.byte(), "has torch.uint8 for 'x'", "preprocess the data exactly like the"),
    ],
)
def test_a_misfit_comes_with_what_mends_it(batch: Any, message: str, fix: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        inputs_of(qpc.trace(One(), X), batch, 0)
    assert caught.value.what.startswith(f"batch 0 {message}; the graph takes ")
    assert (caught.value.fix or "").startswith(fix)


def test_inputs_of_different_lengths_are_refused_before_anything_runs() -> None:
    with pytest.raises(CalibrationError) as caught:
        inputs_of(qpc.trace(Two(), (X, Y)), (X, Y[:1]), 3)
    assert caught.value.what == (
        "batch 3 has different numbers of samples, 2 for 'left', 1 for 'right'; "
        "the graph takes equal ones"
    )


def test_a_mapping_may_use_the_name_that_the_user_wrote() -> None:
    gm = qpc.trace(nn.ReLU(), X)  # whose input torch names `input`, and the graph `input_1`
    for name in ("input", "input_1"):
        assert inputs_of(gm, {name: X}, 0)[0] is X
    with pytest.raises(CalibrationError, match="batch 0 has no 'input_1'") as caught:
        inputs_of(gm, {"image": X}, 0)
    assert caught.value.fix == "name the tensors so: {'input_1': ...}"
