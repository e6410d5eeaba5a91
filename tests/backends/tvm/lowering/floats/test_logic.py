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


@pytest.mark.every(2)
@pytest.mark.parametrize("functions", [KINDS, TRUTHS], ids=["kinds", "truths"])
def test_numbers_of_every_kind_are_known(functions: list[Callable[[Tensor], object]]) -> None:
    assert_like_pytorch(functions, NUMBERS)
