"""Norms over channels, groups and the last axes, with and without weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("qpc.backends.tvm", reason="Apache TVM is not installed")
from tests.backends.tvm.strange import assert_like_pytorch

pytestmark = pytest.mark.tvm

MEAN, VARIANCE = torch.tensor([0.5, -1.0, 0.0, 2.0]), torch.tensor([0.25, 4.0, 1.0, 0.0])
WEIGHT, BIAS = torch.tensor([2.0, -1.0, 0.5, 3.0]), torch.tensor([1.0, 0.0, -3.0, 0.25])


def test_batch_norms_have_a_weight_and_a_bias_or_none() -> None:
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))

    def norm(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.batch_norm(x, MEAN, VARIANCE, weight, bias, eps=0.1)

    assert_like_pytorch(
        [
            lambda x: norm(x, WEIGHT, BIAS),
            lambda x: norm(x, WEIGHT, None),
            lambda x: norm(x, None, BIAS),
            lambda x: norm(x, None, None),
            lambda x: norm(x[:, :, 0], WEIGHT, BIAS),
        ],
        x,
    )


def test_other_norms_have_a_weight_and_a_bias_or_none() -> None:
    x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    assert_like_pytorch(
        [
            lambda x: F.instance_norm(x, None, None, WEIGHT, BIAS, eps=0.1),
            lambda x: F.instance_norm(x),
            lambda x: F.group_norm(x, 2, WEIGHT, BIAS, eps=0.1),
            lambda x: F.group_norm(x, 2),
            lambda x: F.layer_norm(x.mT, (4,), WEIGHT, BIAS, eps=0.1),
            lambda x: F.layer_norm(x, (4, 6)),
            lambda x: F.rms_norm(x.mT, (4,), WEIGHT, eps=0.1),
        ],
        x,
    )
