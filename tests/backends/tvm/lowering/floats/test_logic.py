"""Kinds of numbers, and truth values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("qpc.backends.tvm", reason="Apache TVM is not installed")
from tests.backends.tvm.strange import NUMBERS, assert_like_pytorch

pytestmark = pytest.mark.tvm

KINDS: list[Callable[[Tensor], object]] = [
    lambda x: x.isfinite(),
    lambda x: x.isnan(),
    lambda x: x.isinf(),
    lambda x: (x > 0).long().isfinite(),
    lambda x: (x > 0).long().isnan(),
    lambda x: (x > 0).long().isinf(),
    lambda x: x.isfinite() & (x > 0),
    lambda x: x.isfinite().all(1),
    lambda x: torch.where(x.isfinite(), x, 0.0),
    lambda x: torch.logaddexp(x, x),
]
TRUTHS: list[Callable[[Tensor], object]] = [
    lambda x: (x > 0) == (x > 1),
    lambda x: (x > 0) != (x > 1),
    lambda x: (x > 0) == True,  # noqa: E712
    lambda x: (x > 0) ^ (x > 1),
    lambda x: (x > 0) * (x > 1),
    lambda x: (x > 0) + (x > 1),
    lambda x: (x > 0) * x,
    lambda x: torch.maximum(x > 0, x > 1),
    lambda x: torch.minimum(x > 0, x > 1),
    lambda x: torch.logical_xor(x, x > 1),
    lambda x: torch.logical_and(x, x > 0),
    lambda x: torch.logical_or(x, x > 0),
    lambda x: x.logical_not(),
]

INF = float("inf")
FILLED: list[Callable[[Tensor], object]] = [
    lambda x: x.masked_fill(x > 0, -INF),
    lambda x: x.masked_fill(x[:1] > 0, float("nan")).softmax(-1),
    lambda x: (x > 1).long().masked_fill(x > 0, -7),
    lambda x: (x > 1).masked_fill(x > 0, value=True),
    lambda x: torch.where(x > 0, x, -INF),
    lambda x: torch.where(x > 0, INF, -INF),
    lambda x: torch.where(x > 0, x, x.new_full((1,), INF)),
    lambda x: x.clone().fill_(-INF),
    lambda x: torch.full_like(x, float("nan")),
    lambda x: torch.nn.functional.pad(x, (1, 1), value=-INF),
]


@pytest.mark.parametrize("functions", [FILLED, KINDS, TRUTHS], ids=["filled", "kinds", "truths"])
def test_numbers_of_every_kind_are_known(functions: list[Callable[[Tensor], object]]) -> None:
    assert_like_pytorch(functions, NUMBERS)
