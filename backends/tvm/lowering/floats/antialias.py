"""Resizing that averages over what becomes one pixel ("antialias"), as weighted sums of points.

The weights are those of PyTorch: a triangle, or the cubic kernel of Keys 1981 with a = -0.5, as
wide as one pixel of the smaller image, cut at the border and normalised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qpc.backends.tvm.lowering.floats.rule import FloatRule
from qpc.calls import aten


@dataclass(frozen=True)
class _Filter:
    """A kernel that is zero from `reach` on."""

    reach: float
    weight: Callable[[float], float]


def _cubic(x: float) -> float:
    """Keys 1981, equation 4, with a = -0.5."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


_TRIANGLE = _Filter(1.0, lambda x: max(0.0, 1 - abs(x)))
_CUBIC = _Filter(2.0, _cubic)


def _by_scale(
    kernel: _Filter,
    x: Tensor,
    output_size: Sequence[int],
    align_corners: bool,
    *scales: float | None,
    **named: float | None,
) -> Tensor:
    return _resized(kernel, x, output_size, align_corners, scales or tuple(named.values()))


def _by_factors(
    kernel: _Filter,
    x: Tensor,
    output_size: Sequence[int] | None,
    align_corners: bool,
    scale_factors: Sequence[float] | None,
) -> Tensor:
    if output_size is None:
        factors = scale_factors or ()
        output_size = [int(n * s) for n, s in zip(x.shape[2:], factors, strict=True)]
    return _resized(kernel, x, output_size, align_corners, scale_factors or ())


def _resized(
    kernel: _Filter,
    x: Tensor,
    sizes: Sequence[int],
    align_corners: bool,
    scales: Sequence[float | None],
) -> Tensor:
    """`x` [N, C, H, W] with its last axes resized to `sizes`: columns first, as PyTorch does."""
    for axis in (1, 0):
        n, size = x.shape[2 + axis], sizes[axis]
        given = scales[axis] if scales else None
        if align_corners:
            step = (n - 1) / (size - 1) if size > 1 else 0.0
        else:
            step = 1 / given if given else n / size
        x = _along(x, axis, _points(kernel, n, size, step))
    return x


def _points(kernel: _Filter, n: int, size: int, step: float) -> list[list[tuple[int, float]]]:
    """The places and weights that make each place of a resized axis.

    Where windows begin depends on single precision, in which PyTorch works.
    """
    step = _single(step)
    wide = max(step, 1.0)
    found = []
    for i in range(size):
        center, reach = _single(step * (i + 0.5)), _single(kernel.reach * wide)
        first, stop = max(int(center - reach + 0.5), 0), min(int(center + reach + 0.5), n)
        weights = {j: kernel.weight((j - center + 0.5) / wide) for j in range(first, stop)}
        total = math.fsum(weights.values())
        found.append([(j, weight / total) for j, weight in weights.items() if weight])
    return found


def _single(number: float) -> float:
    return float(np.float32(number))


def _along(x: Tensor, axis: int, points: list[list[tuple[int, float]]]) -> Tensor:
    """The weighted sums of points of an axis: 0 for rows, 1 for columns.

    Places with fewer points than others repeat their last one, with parts of its weight: a point of
    weight 0 would be NaN where it is infinite.
    """
    most = max(map(len, points))
    filled = []
    for row in points:
        (last, weight), copies = row[-1], most - len(row) + 1
        filled.append([*row[:-1], *[(last, weight / copies)] * copies])
    total: Any = None
    for k in range(most):
        places = torch.tensor([row[k][0] for row in filled])
        weights = torch.tensor([row[k][1] for row in filled], dtype=x.dtype)
        weights = weights.reshape(-1, 1) if axis == 0 else weights
        indices = [None, None, None, places] if axis else [None, None, places]
        part = aten._unsafe_index.Tensor(x, indices) * weights
        total = part if total is None else total + part
    result: Tensor = total
    return result


_PACKETS = ((aten._upsample_bilinear2d_aa, _TRIANGLE), (aten._upsample_bicubic2d_aa, _CUBIC))

RULES: dict[object, FloatRule] = {
    **{p.default: FloatRule(decomposition=partial(_by_scale, k)) for p, k in _PACKETS},
    **{p.vec: FloatRule(decomposition=partial(_by_factors, k)) for p, k in _PACKETS},
}
