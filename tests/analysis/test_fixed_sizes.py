"""Sizes that tracing wrote down: others are refused where they would be wrong without a word."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

import qpc
from qpc.analysis.fixed_sizes import fixed_sizes
from qpc.calls import arguments, qpc_ops
from qpc.errors import PassError
from qpc.meta import info


class _Flat(nn.Module):
    """Flattens what a convolution leaves: with images of another size, pixels become a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.linear = nn.Linear(256, 2)

    def forward(self, x: Tensor) -> Tensor:
        flat: Tensor = self.linear(torch.flatten(torch.relu(self.conv(x)), 1))
        return flat


def _quantized(model: nn.Module, size: int = 8) -> GraphModule:
    x = torch.randn(2, 3, size, size)
    return qpc.quantize(qpc.trace(model.eval(), x), [x])


def _sizes(gm: GraphModule) -> list[object]:
    calls = [n for n in gm.graph.nodes if n.target is qpc_ops.quantize.default]
    return [arguments(node)["sizes"] for node in calls]


def _means() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def test_a_graph_that_ends_in_a_mean_takes_images_of_any_size() -> None:
    torch.manual_seed(1)
    gm = _quantized(_means())
    assert _sizes(gm) == [None]
    assert gm(torch.randn(2, 3, 20, 12)).shape == (2, 2)


@pytest.mark.parametrize(
    "model",
    [
        _Flat(),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(2)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveMaxPool2d(2)),
    ],
    ids=["flatten", "adaptive-average", "adaptive-maximum"],
)
def test_images_of_another_size_are_refused_where_a_size_was_written_down(model: nn.Module) -> None:
    gm = _quantized(model)
    assert _sizes(gm) == [[-1, 8, 8]]
    with pytest.raises(PassError, match=r"made for inputs of the sizes \(N, any, 8, 8\), not of"):
        gm(torch.randn(2, 3, 16, 16))
    gm(torch.randn(5, 3, 8, 8))  # any batch


def test_a_resize_refuses_images_of_another_size_itself() -> None:
    gm = _quantized(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=2)))
    with pytest.raises(PassError, match=r"\(N, any, 8, 8\), not of \(2, 4, 16, 16\)"):
        gm(torch.randn(2, 3, 16, 16))


def test_a_crop_to_a_fixed_size_counts_as_a_size_that_was_written_down() -> None:
    class Crop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            half = x.shape[3] // 2
            left: Tensor = self.conv(x)[..., :half]
            return left

    assert _sizes(_quantized(Crop())) == [[-1, -1, 8]]


def test_a_reshape_that_refuses_other_sizes_itself_needs_no_check() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            tokens: Tensor = self.conv(x).reshape(2, 4, 64)
            return tokens

    x = torch.randn(2, 3, 8, 8)
    gm = qpc.quantize(qpc.trace(Tokens().eval(), x), [x])
    assert fixed_sizes(gm) == {}


class _SequenceFirst(nn.Module):
    """Images become a sequence of pixels with the batch as its second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        pixels = torch.softmax(self.conv(x).flatten(2), 1).permute(2, 0, 1)
        found: Tensor = self.linear(pixels)
        return found


def test_the_batch_is_no_size_wherever_it_lies() -> None:
    torch.manual_seed(0)
    gm = _quantized(_SequenceFirst())
    assert all(_batch_is_free(node) for node in gm.graph.nodes if "quantize" in str(node.target))
    for batch in (1, 2, 5):
        assert gm(torch.randn(batch, 3, 8, 8)).shape == (64, batch, 2)


def _batch_is_free(node: Node) -> bool:
    sizes = arguments(node).get("sizes") or ()
    shape = info(node).shape or ()
    return all(s == -1 or isinstance(d, int) for s, d in zip(sizes, shape[1:], strict=False))
