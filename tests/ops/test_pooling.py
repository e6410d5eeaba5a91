"""Averages over windows that reach beyond the image are divided by what is in them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qpc
from qpc.calls import qpc_ops
from qpc.errors import OverflowProofError
from qpc.exporting.onnx.model import to_qdq
from qpc.testing import randomized, traced
from tests.small_models import only

X = torch.randn(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
# kernel, stride, padding, ceil_mode, count_include_pad
WINDOWS = [
    (3, 1, 1, False, False),
    (3, 2, 1, True, False),
    (3, 2, 1, True, True),
    ((2, 3), (2, 1), (1, 1), True, False),
    (3, 2, 0, True, True),
]


@pytest.mark.parametrize("window", WINDOWS)
def test_the_sums_are_divided_by_the_numbers_that_pytorch_takes(
    window: tuple[Any, Any, Any, bool, bool],
) -> None:
    kernel, stride, padding, *counting = window
    q = torch.randint(256, (1, 2, 8, 9), dtype=torch.uint8)
    sizes = [list(v) if isinstance(v, tuple) else [v, v] for v in (kernel, stride, padding)]
    got = qpc_ops.counted_avg_pool2d(q, *sizes, *counting, 100, 0.5, 0.25, 20, 0, 255)
    real = F.avg_pool2d((q.double() - 100) * 0.5, *window)
    wanted = (torch.round(real / 0.25) + 20).clamp(0, 255)
    difference = (got.double() - wanted).abs()
    assert float(difference.max()) <= 1  # ties that float32 multipliers decide
    assert float(difference.mean()) < 0.02
    shape = qpc_ops.counted_avg_pool2d.default(
        q.to("meta"), *sizes, *counting, 100, 0.5, 0.25, 20, 0, 255
    ).shape
    assert shape == got.shape


@pytest.mark.every(3)
@pytest.mark.parametrize("window", WINDOWS[:3])
def test_compiled_they_are_the_same_bits(window: tuple[int, int, int, bool, bool]) -> None:
    layers = (nn.Conv2d(3, 20, 1), nn.ReLU(), nn.AvgPool2d(*window), nn.Conv2d(20, 3, 1))
    gm = traced(randomized(nn.Sequential(*layers)), X)
    quantized = qpc.quantize(gm, [X])
    assert only(quantized, qpc_ops.counted_avg_pool2d.default).users
    compiled = qpc.compile(quantized, batch_sizes=(2,))
    assert torch.equal(torch.as_tensor(compiled(X)), quantized(X))
    assert "AveragePool" in {node.op_type for node in to_qdq(quantized, batch=2).graph.node}


def test_too_many_values_are_refused() -> None:
    q = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    sizes = ([3000, 3000], [1, 1], [0, 0])
    with pytest.raises(OverflowProofError, match="a sum of 9000000 integers may not fit 32 bits"):
        qpc_ops.counted_avg_pool2d(q, *sizes, True, True, 0, 1.0, 1.0, 0, 0, 255)
