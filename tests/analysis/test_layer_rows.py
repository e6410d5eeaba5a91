"""What a layer multiplies with its weights, as a matrix, gives its outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qpc.analysis.layer_rows import Rows, layer_rows
from qpc.layers import outputs_first, weighted
from qpc.testing import randomized, traced

LAYERS = {
    "linear": (nn.Linear(5, 7), (3, 2, 5)),
    "strided, dilated, grouped": (
        nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2),
        (3, 4, 9, 8),
    ),
    "depthwise, not square": (nn.Conv2d(4, 8, (1, 3), padding=(0, 1), groups=4), (3, 4, 5, 5)),
    "transposed": (
        nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), 1, (1, 0), groups=2, dilation=(1, 2)),
        (3, 4, 5, 6),
    ),
    "transposed and cropped": (nn.ConvTranspose2d(4, 6, 2, padding=2), (3, 4, 5, 6)),
}


def rows_of(layer: nn.Module, x: Tensor, most: int) -> tuple[Rows, Tensor, Tensor]:
    randomized(layer)
    gm = traced(layer, x)
    view = next(v for n in gm.graph.nodes if (v := weighted(n)) is not None)
    y = layer(x).detach()
    rows = layer_rows(view, [x, x], [y, y], most)
    weight = outputs_first(layer.get_parameter("weight"), view.output_axis, view.groups)
    return rows, rows.grouped(weight.detach()), rows.grouped(layer.get_parameter("bias").detach())


@pytest.mark.parametrize("most", [10_000, 20])
@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_weights_are_the_outputs(name: str, most: int) -> None:
    layer, shape = LAYERS[name]
    rows, weight, bias = rows_of(layer, torch.randn(shape), most)
    made = rows.inputs @ weight.transpose(1, 2) + bias[:, None]
    torch.testing.assert_close(made, rows.targets, atol=1e-4, rtol=1e-5)  # sums of dozens
    assert len(rows) <= most


def test_the_same_places_are_taken_each_time() -> None:
    x = torch.randn(2, 3, 9, 9)
    first, _, _ = rows_of(nn.Conv2d(3, 2, 3), x, 10)
    second, _, _ = rows_of(nn.Conv2d(3, 2, 3), x, 10)
    assert torch.equal(first.inputs, second.inputs)
