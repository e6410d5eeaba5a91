"""Corrections of biases leave zeros that a layer makes of rows of zeros."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.analysis.zero_rows import but_zeros
from qpc.layers import Weighted, float_layer

ERROR = torch.tensor([0.5, -0.25])


def layer_of(module: nn.Module, x: Tensor) -> tuple[torch.fx.GraphModule, Weighted]:
    gm = qpc.trace(module, x)
    (found,) = filter(None, map(float_layer, gm.graph.nodes))
    return gm, found


def linear(bias: list[float] | None) -> nn.Linear:
    module = nn.Linear(3, 2, bias=bias is not None)
    if bias is not None:
        module.bias = nn.Parameter(torch.tensor(bias))
    return module


@pytest.mark.parametrize(
    ("bias", "rows", "left"),
    [
        (None, [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], [0.0, 0.0]),
        ([0.0, 1.0], [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], [0.0, -0.25]),  # what is no zero anyway
        (None, [[1.0, 2.0, 3.0], [0.0, 0.0, 4.0]], [0.5, -0.25]),
    ],
)
def test_errors_of_channels_that_zeros_leave_zero_are_not_taken_out(
    bias: list[float] | None, rows: list[list[float]], left: list[float]
) -> None:
    x = torch.tensor([rows])
    gm, layer = layer_of(linear(bias), x)
    assert but_zeros(ERROR, gm, layer, [torch.ones(1, 2, 3), x]).tolist() == left


def test_convolutions_are_corrected_as_before() -> None:
    x = torch.zeros(1, 3, 4, 4)
    gm, layer = layer_of(nn.Conv2d(3, 2, 3, bias=False), x)
    assert but_zeros(ERROR, gm, layer, [x]) is ERROR


class CosineAttention(nn.Module):
    """Tokens beside which there are rows of zeros, as where windows do not fill an image."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.v = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, 0, 0, 4))
        q, k = (nn.functional.normalize(layer(x), dim=-1) for layer in (self.q, self.k))
        found: Tensor = (10.0 * q @ k.mT).softmax(-1) @ self.v(x)
        return found


@pytest.mark.parametrize("effort", ["fast", "default", "best"])
def test_rows_of_zeros_are_no_noise_where_values_are_normalized(effort: str) -> None:
    torch.manual_seed(0)
    batches = [torch.randn(8, 12, 16) + 0.5 for _ in range(2)]
    gm = qpc.trace(CosineAttention(), batches[0])
    q = qpc.quantize(gm, batches, effort=effort)
    x = torch.randn(8, 12, 16) + 0.5
    with torch.no_grad():
        wanted, found = gm(x), q(x)
    noise = (wanted - found).pow(2).mean() / wanted.pow(2).mean()
    assert noise < 10.0 ** (-30.0 / 10.0)
