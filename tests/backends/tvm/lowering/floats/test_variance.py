"""Variances, of numbers far from zero and of numbers that are none."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("qpc.backends.tvm", reason="Apache TVM is not installed")
from tests.backends.tvm.strange import INF, NAN, assert_like_pytorch

pytestmark = pytest.mark.tvm


@pytest.mark.filterwarnings("ignore:.*degrees of freedom:UserWarning")
def test_variances_over_any_axes() -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0], x[1, 2] = NAN, x[1, 2] + 1e4
    assert_like_pytorch(
        [
            lambda x: torch.var_mean(x, 1),
            lambda x: torch.var_mean(x, (1, -1), correction=0, keepdim=True),
            lambda x: torch.var_mean(x, 2, unbiased=False),
            lambda x: x.var(2),
            lambda x: x.std(1, correction=0),
            lambda x: x[:, :, :2].var(2, correction=2),  # nothing is left to divide by
            lambda x: x.double().var((1, 2)),
        ],
        x,
    )


def test_no_variance_around_infinity() -> None:
    """The mean is infinite, as `mean` has it; what PyTorch's var_mean has depends on the order."""
    assert_like_pytorch([lambda x: x.var(1)], torch.tensor([[1.0, INF, 2.0], [1.0, 2.0, 4.0]]))
