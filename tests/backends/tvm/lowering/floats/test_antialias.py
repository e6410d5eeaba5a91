from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import qpc
from tests.small_models import Call

pytest.importorskip("tvm", reason="Apache TVM is not installed")

X = torch.randn(1, 2, 17, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.every(8)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "options",
    [
        {"size": (7, 9)},
        {"size": (7, 9), "align_corners": True},
        {"scale_factor": (0.5, 1.5)},
        {"size": (1, 16)},
    ],
    ids=str,
)
def test_every_pixel_is_an_average_as_in_pytorch(mode: str, options: dict[str, Any]) -> None:
    def resized(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, mode=mode, antialias=True, **options)

    compiled = qpc.compile(qpc.trace(Call(resized), X))
    torch.testing.assert_close(torch.as_tensor(compiled(X)), resized(X), rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
def test_infinities_reach_no_further_than_in_pytorch() -> None:
    x = X.clone()
    x[0, 0, 3, 5] = torch.inf

    def resized(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, size=(7, 9), mode="bilinear", antialias=True)

    compiled = qpc.compile(qpc.trace(Call(resized), x))
    made = torch.as_tensor(compiled(x))
    assert torch.equal(made.isfinite(), resized(x).isfinite())
    assert not made.isnan().any()
