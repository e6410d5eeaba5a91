"""Windows that differ in size, and windows as an axis."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("qpc.backends.tvm", reason="Apache TVM is not installed")
from tests.backends.tvm.strange import INF, NAN, assert_like_pytorch

pytestmark = pytest.mark.tvm


def test_of_equal_values_the_first_has_the_place_and_of_nan_the_last() -> None:
    x = torch.tensor([[1.0, 1.0, 0.0], [1.0, -INF, -INF], [NAN, -INF, -INF], [NAN, -INF, -INF]])
    assert_like_pytorch([lambda x: F.adaptive_max_pool2d(x, (2, 2), return_indices=True)], x[None])


@pytest.mark.thorough
def test_windows_are_pytorchs() -> None:
    x = torch.randn(1, 2, 7, 5, generator=torch.Generator().manual_seed(0))
    x[0, 0, 1, 1], x[0, 0, 1, 2], x[0, 0, 4, 4] = NAN, NAN, INF
    x[0, 1, :3, :3] = -INF
    assert_like_pytorch(
        [
            lambda x: F.adaptive_max_pool2d(x, (3, 2)),
            lambda x: F.adaptive_max_pool2d(x, (2, 4), return_indices=True),
            lambda x: F.adaptive_max_pool2d(x, 9, return_indices=True),
            lambda x: F.adaptive_max_pool2d(x, 1),
            lambda x: F.unfold(x, (2, 3), padding=(1, 0), stride=(1, 2)),
            lambda x: F.unfold(x, 2, dilation=2),
            lambda x: x.unfold(2, 3, 2),
            lambda x: x.unfold(-1, 2, 1),
        ],
        x,
    )
