"""Each form by itself, with kernels that round as fixed point numbers do: at most a step off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from qpc.backends.litert import to_tflite
from qpc.errors import UnsupportedOpError
from tests.backends.litert.running import results, steps_off
from tests.quantizing import Parts, fake_quantized, integer, min_max

pytest.importorskip("ai_edge_litert")

IMAGE = (2, 4, 9, 9)


def off(module: nn.Module, *sizes: tuple[int, ...], **options: Any) -> int:
    """How many steps a module is off, at most, in the worse of two sets of kernels."""
    torch.manual_seed(0)
    inputs = [torch.randn(size) for size in sizes]
    gm = integer(fake_quantized(module, *inputs, **options))
    return max(steps_off(gm, *inputs, kernels=kernels) for kernels in ("xnnpack", "reference"))


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), IMAGE),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), IMAGE),  # as much padding as SAME has
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 8)),  # more than that
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 1)), IMAGE),
        (nn.Conv2d(4, 8, 3, groups=2), IMAGE),
        (nn.Conv2d(4, 8, 3, groups=4, padding=2, dilation=2), IMAGE),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), IMAGE),
        (nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), IMAGE),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), IMAGE),
        (nn.Linear(6, 4), (2, 6)),
        (nn.Linear(6, 4), (2, 5, 6)),
        (nn.Linear(6, 4), (2, 3, 5, 6)),
    ],
)
def test_layers(layer: nn.Module, size: tuple[int, ...]) -> None:
    assert off(layer, size) <= 1


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("clamp", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.3, 0.4)])
def test_clamps_and_grids_of_fewer_bits(clamp: nn.Module, bits: int) -> None:
    layers = nn.Sequential(nn.Conv2d(4, 6, 1), clamp)
    assert off(layers, IMAGE, config=min_max(bits, bits)) <= 1


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d((2, 3), (1, 2), (0, 1), count_include_pad=False),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AdaptiveAvgPool2d(1),
    ],
)
def test_pools(pool: nn.Module) -> None:
    assert off(nn.Sequential(nn.Conv2d(4, 4, 1), pool), IMAGE) <= 2  # of both operators


def between(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return Parts(lambda m, x: function(m.layer(x)), layer=nn.Conv2d(4, 8, 1))


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.permute(0, 3, 1, 2).flatten(1, 2),
        lambda x: x.reshape(-1, 4, 2, 81),
        lambda x: x.reshape(-1, 2, 4, 9, 9).permute(0, 2, 1, 3, 4).flatten(1, 2),
        lambda x: x[:, 2:6, 1:8:2],
        lambda x: x[:, 3],
        lambda x: x[..., -1],
        lambda x: x.flip(2, 3),
        lambda x: x.roll((1, 2), (1, 3)),
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: F.pixel_unshuffle(x[:, :, :8, :8], 2),
        lambda x: F.channel_shuffle(x, 2),
        lambda x: F.pad(x, (1, 2, 0, 1)),
        lambda x: F.pad(x, (1, 2, 1, 1), mode="reflect"),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: torch.cat([x[:, 4:], x], 1),
        lambda x: x[:, [3, -1, 0]],
        lambda x: x.index_select(3, torch.tensor([8, 2])),
        lambda x: x[:, 1:2].expand(-1, 3, -1, -1),
        lambda x: x.repeat(1, 2, 1, 3),
        lambda x: x.amax((2, 3)),
        lambda x: x.amin(1, keepdim=True),
        lambda x: torch.maximum(x, x.flip(1)),
        lambda x: torch.minimum(x, x.amax((2, 3), keepdim=True)),
        lambda x: x.masked_fill(torch.eye(9).bool(), 0.5),
        lambda x: torch.where(torch.eye(9).bool(), x, x.flip(3)),
    ],
)
def test_moves_change_nothing(move: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    x = torch.randn(IMAGE)
    gm = integer(fake_quantized(between(move), x))
    assert steps_off(gm, x, kernels="xnnpack") == 0


@pytest.mark.parametrize(
    "function",
    [
        F.hardswish,
        F.gelu,
        torch.sigmoid,
        torch.tanh,
        lambda x: F.leaky_relu(x, 0.1),
        lambda x: x * x.mean((2, 3), keepdim=True),
        lambda x: x - x.flip(1),
        lambda x: x.mean(1),
        lambda x: x.mean((1, 3), keepdim=True),
        lambda x: x.sum(1),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: F.interpolate(x, (13, 11), mode="bilinear", align_corners=True),
    ],
)
def test_functions(function: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    x = torch.randn(IMAGE)
    gm = integer(fake_quantized(between(function), x))
    assert steps_off(gm, x, kernels="xnnpack") <= 1


@pytest.mark.parametrize(
    ("layer", "size"),
    [(nn.Conv2d(4, 4, 1), IMAGE), (nn.Linear(3, 4), (2, 3)), (nn.Linear(3, 5), (2, 4, 3))],
)
def test_leaky_rectifiers_with_a_slope_for_each_channel(
    layer: nn.Module, size: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    rectifier = nn.PReLU(4)
    rectifier.weight.data = torch.tensor([0.3, -0.4, 0.0, 1.1])
    x = torch.randn(size)
    gm = integer(fake_quantized(nn.Sequential(layer, rectifier), x, random=False))
    assert torch.ops.qpc.prelu.default in {node.target for node in gm.graph.nodes}
    assert steps_off(gm, x, kernels="xnnpack") <= 1
    assert steps_off(gm, x) <= 2  # of both operators


class Choice(nn.Module):
    """One of two convolutions of x, by a mask that is made of x and y."""

    def __init__(self, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.mask, self.left, self.right = mask, nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        chosen: Tensor = self.last(torch.where(self.mask(x, y), self.left(x), self.right(x)))
        return chosen


@pytest.mark.parametrize(
    "mask",
    [
        lambda x, y: x > 0.1,
        lambda x, y: torch.logical_and(x <= y, torch.logical_not(y != 0.25)),
        lambda x, y: torch.logical_or(x[:, :1] < 0, y >= 0.5),
        lambda x, y: (x == y)[:, 0:1],
    ],
)
def test_masks_are_computed_in_float_and_choose_integers(mask: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(IMAGE), torch.randn(IMAGE)
    gm = integer(fake_quantized(Choice(mask), x, y))
    assert steps_off(gm, x, y, kernels="xnnpack") <= 1


class Filled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        made: Tensor = self.layer(x).masked_fill(mask[:, None, None], 0.0)
        return made.argmax(1)


def test_masks_may_be_inputs_and_numbers_results() -> None:
    x, mask = torch.randn(IMAGE), torch.arange(18).reshape(2, 9) % 3 == 0
    gm = integer(fake_quantized(Filled(), x, mask))
    names = [str(node.name) for node in gm.graph.find_nodes(op="placeholder")]
    given = dict(zip(names, (x.numpy(), mask.numpy()), strict=True))
    (found,) = results(to_tflite(gm, 2), given, "xnnpack")
    assert torch.equal(found, gm(x, mask))


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        (nn.MaxPool2d(2, dilation=2), "it has a dilation"),
        (nn.ConvTranspose2d(8, 8, 2, groups=2), "it has groups or a dilation"),
        (nn.ConvTranspose2d(8, 8, 2, dilation=2), "it has groups or a dilation"),
    ],
)
def test_what_the_format_cannot_say_is_refused(layers: nn.Module, why: str) -> None:
    gm: GraphModule = integer(
        fake_quantized(nn.Sequential(nn.Conv2d(4, 8, 1), layers), torch.randn(IMAGE))
    )
    with pytest.raises(UnsupportedOpError, match=why):
        steps_off(gm, torch.randn(IMAGE))
