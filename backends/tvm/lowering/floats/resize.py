"""Linear interpolation as a sum of weighted points, which is how PyTorch computes it.

PyTorch's own decomposition goes from one point towards the next, `a + (b - a) * w`: with an
infinity as `a` that is NaN where PyTorch has the infinity, and `b - a` overflows between large
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qpc.backends.tvm.lowering.floats.rule import FloatRule
from qpc.calls import aten


def _by_scale(
    x: Tensor, output_size: Sequence[int], align_corners: bool, *scales: float | None, **named: Any
) -> Tensor:
    return _interpolated(x, output_size, align_corners, scales or tuple(named.values()))


def _by_factors(
    x: Tensor,
    output_size: Sequence[int] | None,
    align_corners: bool,
    scale_factors: Sequence[float] | None,
) -> Tensor:
    if output_size is None:
        factors = scale_factors or ()
        output_size = [int(n * s) for n, s in zip(x.shape[2:], factors, strict=True)]
    return _interpolated(x, output_size, align_corners, scale_factors or ())


def _interpolated(
    x: Tensor, sizes: Sequence[int], align_corners: bool, scales: Sequence[float | None]
) -> Tensor:
    """`x` [N, C, *] with its last axes resized to `sizes`."""
    rank = len(sizes)
    scales = scales or (None,) * rank
    axes = [
        _Axis(n, size, align_corners, scale, trailing=rank - 1 - i)
        for i, (n, size, scale) in enumerate(zip(x.shape[2:], sizes, scales, strict=True))
    ]
    take = partial(aten._unsafe_index.Tensor, x)
    points: list[Tensor] = [
        take([None, None, *(axis.places[k] for axis, k in zip(axes, corner, strict=True))])
        for corner in product((0, 1), repeat=rank)
    ]
    for axis in reversed(axes):  # the innermost first, as PyTorch does
        near, far = (w.to(x.dtype) for w in axis.weights)
        points = [a * near + b * far for a, b in zip(points[::2], points[1::2], strict=True)]
    (result,) = points
    return result


class _Axis:
    """Where the points of a resized axis come from: two places each, and their weights.

    All shaped [size, 1, ...] with as many ones as there are axes behind it.
    """

    def __init__(
        self, n: int, size: int, align_corners: bool, scale: float | None, trailing: int
    ) -> None:
        i = torch.arange(size).double()
        if align_corners:
            source = i * _single((n - 1) / (size - 1) if size > 1 else 0.0)
        else:
            step = _single(1 / scale if scale else n / size)
            source = ((i + 0.5) * step - 0.5).clamp(min=0.0)
        # one rounding, as PyTorch's fused multiplication and addition in single precision
        source = source.float().reshape(size, *[1] * trailing)
        low = source.to(torch.int64).clamp(max=n - 1)
        kept = n == size  # PyTorch then reads no neighbour, be its weight 0
        self.places = (low, low if kept else (low + 1).clamp(max=n - 1))
        far = (source - low).clamp(0.0, 1.0)
        self.weights = (1 - far, far)


def _single(number: float) -> float:
    return float(np.float32(number))


_PACKETS = (aten.upsample_linear1d, aten.upsample_bilinear2d, aten.upsample_trilinear3d)

RULES: dict[object, FloatRule] = {
    **{packet.default: FloatRule(decomposition=_by_scale) for packet in _PACKETS},
    **{packet.vec: FloatRule(decomposition=_by_factors) for packet in _PACKETS},
}
