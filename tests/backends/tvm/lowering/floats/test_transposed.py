"""Transposed convolutions that stay floats, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import qpc

pytest.importorskip("tvm", reason="Apache TVM is not installed")

INFINITY, NAN = float("inf"), float("nan")

CASES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 4, 5, 6), {"kernel_size": 4, "stride": 2, "padding": 1}),
    ((1, 4, 5, 6), {"kernel_size": (3, 2), "stride": (2, 3), "output_padding": 1, "groups": 2}),
    ((1, 4, 5, 6), {"kernel_size": 3, "dilation": 2}),
    ((1, 4, 5, 6), {"kernel_size": (2, 3), "stride": 2, "dilation": (2, 3), "padding": (1, 4)}),
    ((1, 4, 3, 3), {"kernel_size": 1, "stride": 3, "bias": False}),  # places that no tap meets
    ((1, 4, 1, 1), {"kernel_size": 2, "stride": 5}),  # fewer outputs than phases
    ((1, 4, 7), {"kernel_size": 5, "stride": 2, "padding": 3, "dilation": 2}),
    ((2, 4, 7), {"kernel_size": 4, "stride": 2, "padding": 1}),
    ((1, 4, 3, 4, 5), {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}),
    ((1, 4, 3, 4, 5), {"kernel_size": 2, "stride": (1, 2, 3), "dilation": (1, 2, 2)}),
]


def layer(shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[len(shape) - 3]
    torch.manual_seed(0)
    return kind(shape[1], 6, **options).eval()


def compiled(gm: fx.GraphModule, batch: int = 1, threads: int = 1) -> Callable[..., Tensor]:
    return qpc.compile(gm, batch_sizes=(batch,), threads=threads, cache=False)


@pytest.mark.every(3)
@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
def test_values_are_those_of_pytorch(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    gm = qpc.trace(layer(shape, options), x)
    one = compiled(gm, shape[0])(x)
    assert torch.equal(one, compiled(gm, shape[0], threads=2)(x))
    torch.testing.assert_close(one, gm(x), rtol=1e-5, atol=1e-5)


@pytest.mark.every(4)
@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
def test_nan_and_infinities_reach_the_outputs_that_they_reach_in_pytorch(
    shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    gm = qpc.trace(layer(shape, options), x)
    run = compiled(gm, shape[0])
    for value in (INFINITY, NAN):
        x.view(-1)[0] = value
        expected = gm(x)
        assert not expected.isfinite().all()
        torch.testing.assert_close(run(x), expected, equal_nan=True, rtol=1e-5, atol=1e-5)


class Computed(nn.Module):
    """The weights are an input."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, stride=2, padding=1, dilation=2)


def test_weights_that_are_computed() -> None:
    x, weight = torch.randn(1, 2, 4, 5), torch.randn(2, 3, 3, 2)
    gm = qpc.trace(Computed(), (x, weight))
    x[0, 0, 1, 1] = INFINITY
    made = compiled(gm)(x, weight)
    torch.testing.assert_close(made, gm(x, weight), equal_nan=True)
