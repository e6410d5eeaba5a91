from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpc

pytest.importorskip("tvm", reason="Apache TVM is not installed")

INFINITY = float("inf")


class Resize(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = options

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, **self._options)


def images(mode: str) -> Tensor:
    size = {"linear": (1, 2, 9), "bilinear": (1, 2, 4, 6), "trilinear": (1, 2, 3, 4, 5)}[mode]
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("linear", {"scale_factor": 1.7}),
        ("bilinear", {"scale_factor": 1.7}),
        ("bilinear", {"scale_factor": 0.4, "recompute_scale_factor": True}),
        ("bilinear", {"scale_factor": 3.0, "align_corners": True}),
        ("trilinear", {"size": (1, 7, 5), "align_corners": True}),
    ],
    ids=str,
)
def test_a_resize_is_that_of_pytorch(mode: str, options: dict[str, Any]) -> None:
    x = images(mode)
    gm = qpc.trace(Resize(mode=mode, **options), x)
    torch.testing.assert_close(qpc.compile(gm, cache=False)(x), gm(x))


@pytest.mark.thorough
@pytest.mark.parametrize("mode", ["bilinear", "trilinear"])
def test_infinities_stay_and_become_nan_only_where_they_do_in_pytorch(mode: str) -> None:
    gm = qpc.trace(Resize(mode=mode, scale_factor=2.0), images(mode))
    compiled = qpc.compile(gm, cache=False)
    for value in (INFINITY, -INFINITY, float("nan")):
        x = images(mode)
        x.view(-1)[7] = value
        expected = gm(x)
        assert not expected.isfinite().all()
        torch.testing.assert_close(compiled(x), expected, equal_nan=True)


def test_points_far_apart_do_not_overflow() -> None:
    gm = qpc.trace(Resize(mode="linear", scale_factor=2.0), images("linear"))
    x = torch.tensor([3e38, -3e38] * 9)[:18].reshape(1, 2, 9)
    assert gm(x).isfinite().all()
    torch.testing.assert_close(qpc.compile(gm, cache=False)(x), gm(x))


@pytest.mark.thorough
def test_an_axis_that_keeps_its_size_mixes_no_neighbours() -> None:
    gm = qpc.trace(Resize(mode="bilinear", size=(7, 6)), images("bilinear"))
    x = images("bilinear")
    x[0, 0, 2, 3] = INFINITY
    torch.testing.assert_close(qpc.compile(gm, cache=False)(x), gm(x), equal_nan=True)
