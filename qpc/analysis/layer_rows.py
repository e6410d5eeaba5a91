"""What a layer multiplies with its weights, as rows of a matrix.

A convolution is a matrix product of the patches of its input ("im2col"), for each group one. Of
many thousand places in an image a few say enough: rows are taken at random places, the same ones
each time. Patches are cut out at these places alone; the matrix of all is never made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from qpc.calls import arguments
from qpc.layers import Weighted
from qpc.meta import info


@dataclass(frozen=True)
class Rows:
    """A layer at some places.

    inputs: float32[groups, rows, taps], what each group multiplies with its weights of shape
    [outputs, taps]; taps run over input channels, and over the kernel in each.
    targets: float32[groups, rows, outputs], what should come out of that, bias included.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return self.inputs.shape[1]

    def grouped(self, values: Tensor) -> Tensor:
        """A weight [out, in/groups, *kernel] as [groups, outputs, taps], a bias [out] likewise."""
        groups, _, outputs = self.targets.shape
        return values.reshape(groups, outputs, *([-1] if values.dim() > 1 else []))


def layer_rows(
    layer: Weighted, inputs: Sequence[Tensor], targets: Sequence[Tensor], most: int
) -> Rows:
    """At most `most` rows of a linear layer or a (transposed) convolution of images.

    inputs, targets: what the layer reads and what it should make of that, batch by batch. Which
    rows are taken depends on their number alone.
    """
    linear = layer.channel_axis == -1
    places = [t.numel() // max(t.shape[layer.channel_axis], 1) for t in targets]
    chosen = _spread_out(sum(places), most)
    pieces: list[Tensor] = []
    wanted: list[Tensor] = []
    first = 0
    for x, y, count in zip(inputs, targets, places, strict=True):
        here = chosen[(chosen >= first) & (chosen < first + count)] - first
        first += count
        if linear:
            pieces.append(x.reshape(-1, x.shape[-1])[here][None])
            wanted.append(y.reshape(-1, y.shape[-1])[here][None])
        else:
            pieces.append(_patches(layer, x, y, here))
            wanted.append(_pixels(y, here, layer.groups))
    return Rows(torch.cat(pieces, 1), torch.cat(wanted, 1))


def _spread_out(total: int, most: int) -> Tensor:
    """At most `most` of `total` places in order, one at random in each of as many stretches."""
    if total <= most:
        return torch.arange(total)
    generator = torch.Generator().manual_seed(0)
    starts = torch.arange(most, dtype=torch.float64)
    offsets = torch.rand(most, dtype=torch.float64, generator=generator)
    return ((starts + offsets) * (total / most)).long().clamp(max=total - 1)


def _pixels(y: Tensor, places: Tensor, groups: int) -> Tensor:
    """[groups, places, channels/groups] of y [n, channels, h, w]."""
    n, h, w = _split(places, y)
    found = y[n, :, h, w]
    return found.reshape(len(places), groups, -1).transpose(0, 1)


def _patches(layer: Weighted, x: Tensor, y: Tensor, places: Tensor) -> Tensor:
    """[groups, places, taps] of what makes the outputs at `places`."""
    given = arguments(layer.node)
    padding, dilation, stride = (_pair(given[k]) for k in ("padding", "dilation", "stride"))
    kernel = _kernel(layer)
    if layer.transposed:
        x = _stretched(x, stride, dilation, kernel, padding, y)
        stride = (1, 1)
    else:
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    n, h, w = _split(places, y)
    rows = (h * stride[0])[:, None] + torch.arange(kernel[0]) * dilation[0]
    columns = (w * stride[1])[:, None] + torch.arange(kernel[1]) * dilation[1]
    patches = x[n[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [places, kh, kw, in]
    if layer.transposed:
        patches = patches.flip((1, 2))
    patches = patches.permute(0, 3, 1, 2)
    return patches.reshape(len(places), layer.groups, -1).transpose(0, 1)


def _stretched(
    x: Tensor,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    kernel: tuple[int, int],
    padding: tuple[int, int],
    y: Tensor,
) -> Tensor:
    """The image whose ordinary convolution with the flipped kernel is the transposed one of x."""
    n, channels, height, width = x.shape
    sizes = [(size - 1) * step + 1 for size, step in zip((height, width), stride, strict=True)]
    wide = x.new_zeros((n, channels, *sizes))
    wide[:, :, :: stride[0], :: stride[1]] = x
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    before = [r - p for r, p in zip(reach, padding, strict=True)]
    after = [
        out + r - size - b
        for out, r, size, b in zip(y.shape[2:], reach, sizes, before, strict=True)
    ]
    return F.pad(wide, (before[1], after[1], before[0], after[0]))  # negative numbers crop


def _kernel(layer: Weighted) -> tuple[int, int]:
    shape = info(layer.weight).shape
    assert shape is not None
    height, width = shape[2:]
    assert isinstance(height, int)
    assert isinstance(width, int)
    return height, width


def _split(places: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places as image, row and column."""
    height, width = y.shape[2:]
    return places // (height * width), places // width % height, places % width


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return int(value[0]), int(value[-1])
