"""Values that go where indices say, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import qpc
from tests.small_models import Call

pytest.importorskip("tvm", reason="Apache TVM is not installed")


def put(x: Tensor) -> Tensor:
    copied = x.clone()
    copied[:, torch.tensor([1, -1]), torch.tensor([0, 3])] = x[:, :2, 0] * 2
    copied[:, :, :, torch.tensor([2, 5])] = 7.0
    return copied


def put_by_masks(x: Tensor) -> Tensor:
    copied = x.clone()
    copied[x > 0.5] = 0.0
    copied[x.amax((2, 3)) > 2] = 1.0
    return copied


def at_the_largest(x: Tensor, **how: str) -> Tensor:
    return torch.zeros_like(x).scatter(2, x.argmax(2, keepdim=True), x[:, :, :1], **how)


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "put": put,
    "put by masks": put_by_masks,
    "truths": lambda x: torch.zeros_like(x, dtype=torch.bool).scatter(
        1, x.argmax(1, keepdim=True), True
    ),
    "scatter": at_the_largest,
    "a number": lambda x: x.scatter(1, x.argmax(1, keepdim=True), -1.0),
    "sums": lambda x: torch.zeros_like(x).scatter_add(3, (x > 0).long() * 2, x),
    "added rows": lambda x: x.index_add(1, torch.tensor([0, 2, 0]), x[:, 3:]),
    "folded": lambda x: F.fold(x.flatten(2)[:, :4], (6, 8), 2),
    "integers": lambda x: torch.zeros(1, 6, 5, 7, dtype=torch.int64).scatter(
        1, (x > 0).long(), torch.arange(7).expand(x.shape)
    ),
}


@pytest.mark.every(3)
@pytest.mark.parametrize("function", CASES.values(), ids=CASES.keys())
def test_values_are_those_of_pytorch(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(1, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    model = Call(function)
    compiled = qpc.compile(qpc.trace(model, x), cache=False)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)
