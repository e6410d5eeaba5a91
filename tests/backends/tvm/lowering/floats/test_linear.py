"""Matrix products of floats, whatever the axes of a batch."""

from __future__ import annotations

import pytest
import torch

import qpc
from tests.small_models import Call

pytest.importorskip("tvm", reason="Apache TVM is not installed")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 4, 5), (1, 5, 3)),  # rows of all products by one matrix, computed
        ((2, 3, 4, 5), (1, 5, 3)),
        ((2, 4, 5), (5, 3)),
        ((1, 1, 4, 5), (2, 5, 3)),
        ((2, 4, 5), (5,)),
    ],
)
def test_products_of_two_inputs(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    x, y = torch.randn(first), torch.randn(second)
    compiled = qpc.compile(
        qpc.trace(Call(torch.matmul), (x, y)), batch_sizes=(first[0],), cache=False
    )
    torch.testing.assert_close(compiled(x, y), x @ y, rtol=1e-5, atol=1e-6)
