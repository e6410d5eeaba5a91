"""Samples of images at places that are computed, against PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import qpc
from tests.small_models import Call

pytest.importorskip("tvm", reason="Apache TVM is not installed")


@pytest.mark.every(5)
@pytest.mark.parametrize("size", [(5, 7), (1, 4)], ids=str)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_values_are_those_of_pytorch(
    mode: str, padding: str, aligned: bool, size: tuple[int, int]
) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=random)
    grid = torch.randn(2, 4, 30, 2, generator=random) * 1.2
    model = Call(lambda x, grid: F.grid_sample(x, grid, mode, padding, align_corners=aligned))
    gm = qpc.trace(model, (x, grid))
    one, two = (
        qpc.compile(gm, batch_sizes=(2,), threads=threads, cache=False)(x, grid)
        for threads in (1, 2)
    )
    assert torch.equal(one, two)
    torch.testing.assert_close(one, model(x, grid), rtol=1e-4, atol=1e-5)


def test_places_far_outside_and_infinite_pixels() -> None:
    """A pixel that does not count makes no NaN, and no place is beyond memory."""
    x = torch.ones(1, 1, 4, 4)
    x[0, 0, 0, 0] = torch.inf
    places = [[1e30, -1e30], [3.0, 0.0], [torch.nan, 0.0], [1.0, 1.0], [-1.0, -1.0]]
    grid = torch.tensor(places).reshape(1, 1, 5, 2)
    model = Call(lambda x, grid: F.grid_sample(x, grid, align_corners=True))
    compiled = qpc.compile(qpc.trace(model, (x, grid)), cache=False)
    assert compiled(x, grid).flatten().tolist()[:4] == [0.0, 0.0, 0.0, 1.0]
    for mode in ("border", "reflection"):
        model = Call(lambda x, grid, m=mode: F.grid_sample(x, grid, "nearest", m, True))
        made = qpc.compile(qpc.trace(model, (x, grid)), cache=False)(x, grid)
        assert not made.isnan().any()
