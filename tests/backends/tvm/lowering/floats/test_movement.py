"""Movement of floats."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qpc.testing import traced
from tests.small_models import Call

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends import tvm

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize(
    ("shifts", "dims"),
    [((3, -2), (1, 2)), ((1, 4), (-1, 3)), ((1, 1), (2, 2)), (17, None), (0, 1), (9, 1)],
)
def test_rolls_are_those_of_pytorch(shifts: Any, dims: Any) -> None:
    model = Call(lambda x: x.roll(shifts, dims) * 2)
    x = torch.randn(1, 7, 5, 6)
    x[0, 0, 0, :2] = torch.tensor([torch.nan, torch.inf])
    found = tvm.compile_graph(traced(model, x))(x)
    torch.testing.assert_close(found, model(x), rtol=0, atol=0, equal_nan=True)
