"""Convolutions pad for the pads in front of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
from torch.fx import Node

import qpc
from qpc.calls import aten
from qpc.testing import traced
from tests.backends.tvm.checking import assert_same_bits, kernels
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm

ZERO_POINT = 9


class Padded(IntegerGraph):
    """All layers have the same zero point, that of the padding."""

    def _zero_point(self) -> int:
        return ZERO_POINT

    def pad(self, q: Node, *amounts: int, value: int = ZERO_POINT) -> Node:
        return self.call(aten.constant_pad_nd.default, q, list(amounts), value)


def start() -> tuple[Padded, Node]:
    g = Padded()
    return g, g.quantize(g.input(8, 9, 7))


@pytest.mark.parametrize("amounts", [(0, 1, 0, 1), (2, 0, 1, 3), (1, 2), (0, 0, 2, 1, 0, 0)])
@pytest.mark.parametrize(
    "layer",
    [
        {"channels": 6},
        {"channels": 6, "padding": (1, 0), "stride": (2, 2)},
        {"channels": 8, "groups": 8, "kernel": (3, 3)},
        {"channels": 8, "groups": 2, "kernel": (2, 2), "stride": (2, 1)},
        {"channels": 12, "kernel": (1, 1)},
    ],
    ids=str,
)
def test_nothing_is_copied(amounts: tuple[int, ...], layer: dict[str, Any]) -> None:
    g, q = start()
    compiled = assert_same_bits(g.module(g.conv2d(g.pad(q, *amounts), **layer)), batch_sizes=(2,))
    assert not {"pad", "copy"} & set(kernels(compiled))
    assert len(kernels(compiled)) == 3  # quantize, the layer, transpose to the order of outputs


def test_several_layers_share_a_border_and_a_slice_may_have_one() -> None:
    g, q = start()
    padded = g.pad(g.slice(q, 1, 2, 7), 1, 1, 0, 2)
    a, b = g.conv2d(padded, 4), g.conv2d(padded, 6, padding=(1, 1))
    assert_same_bits(g.module(g.mean(a, (2, 3)), g.mean(b, (2, 3))), batch_sizes=(1, 2))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda g, q: g.conv2d(g.pad(q, 1, 1, value=8), 4), id="another value"),
        pytest.param(lambda g, q: g.conv2d(g.pad(q, 1, -1), 4), id="cropped"),
        pytest.param(lambda g, q: g.conv2d(g.pad(q, 0, 0, 0, 0, 1, 2), 4), id="channels"),
        pytest.param(lambda g, q: g.max_pool2d(g.pad(q, 1, 1), (2, 2), (2, 2)), id="a pool"),
        pytest.param(lambda g, q: g.add(p := g.pad(q, 1, 1), g.conv2d(p, 8, (1, 1))), id="others"),
        pytest.param(lambda g, q: g.pad(q, 1, 1), id="the result"),
    ],
)
def test_other_padding_is_copied(build: Any) -> None:
    g, q = start()
    compiled = assert_same_bits(g.module(build(g, q)), batch_sizes=(2,))
    assert "pad" in kernels(compiled)


class Uneven(nn.Module):
    """As networks that come from TensorFlow pad: one row more at the bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(nn.functional.pad(x, (0, 1, 0, 1))))
        return torch.relu(self.depthwise(nn.functional.pad(x, (0, 1, 0, 1))))


def test_quantized_models_pad_with_their_zero_points() -> None:
    images = torch.randn(2, 3, 16, 16)
    gm = qpc.quantize(traced(Uneven().eval(), images), [images])
    compiled = assert_same_bits(gm, batch_sizes=(2,))
    assert kernels(compiled)[:3] == ["quantize", "conv2d", "depthwise_conv2d"]
