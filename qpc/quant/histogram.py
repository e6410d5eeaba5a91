"""A mergeable histogram of float32 data on a fixed grid of bins.

The bins do not depend on the data: a bin is the top 18 bits of a float32, that is sign, exponent
and the first 9 bits of the mantissa, with exponents clamped to [-32, 31]. So a bin is at most 0.2 %
wide, relative to its values, counts are integers, and the counts of shards add up to those of the
whole. Magnitudes below 2**-32 share the zero bin; magnitudes from 2**32 up share the last bin of
their sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qpc.errors import CalibrationError

Floats = NDArray[np.float64]

_SHIFT = 14  # bits of the mantissa that are dropped: 23 - 9
_LOW_EXPONENT, _EXPONENTS = -32, 64
_SIDE = _EXPONENTS << 9  # bins per sign
_FIRST = (127 + _LOW_EXPONENT) << 9  # key of the lowest bin that is not the zero bin
_CHUNK = 1 << 22  # elements that are binned at a time, which bounds the temporaries
_FEW = 1 << 16  # elements that are binned one by one: a table of all keys would take longer
_SIGN = 1 << 17  # keys of one sign

BINS = 2 * _SIDE + 1
"""Bins in order of value: negative, zero, positive."""
ZERO_BIN = _SIDE


def extent(x: Tensor) -> Tensor:
    """Return the exact (minimum, maximum) of `x` (float32, any shape) as float32[2].

    It is (inf, -inf) if `x` is empty.
    Raises `TypeError` for another dtype and `CalibrationError` for NaN or infinite values.
    """
    if x.dtype != torch.float32:
        raise TypeError(f"observers take float32, got {x.dtype}")
    if x.numel() == 0:
        return torch.tensor([torch.inf, -torch.inf])
    ends = torch.stack(torch.aminmax(x.detach())) + 0.0  # -0.0 becomes 0.0
    if not torch.isfinite(ends).all():
        raise CalibrationError(
            "the calibration data holds NaN or infinite values",
            fix="check the samples, their normalization, and the model's weights",
        )
    return ends


def merge_extents(a: Tensor, b: Tensor) -> Tensor:
    """Return the extent, float32[2], of the union of two sets of data."""
    return torch.stack([torch.minimum(a[0], b[0]), torch.maximum(a[1], b[1])])


def bin_edges() -> Floats:
    """Return the ascending bounds of the bins, float64[BINS + 1]: bin i has edges i and i + 1."""
    keys = np.arange(_FIRST, _FIRST + _SIDE, dtype=np.int32) << _SHIFT
    magnitudes = np.append(keys.view(np.float32).astype(np.float64), 2.0**32)
    return np.concatenate([-magnitudes[::-1], magnitudes])


def bin_indices(x: Tensor) -> Tensor:
    """Return the bin of each element of `x` (finite float32), int32 of the same shape."""
    bits = x.view(torch.int32)
    magnitude = ((bits & 0x7FFFFFFF) >> _SHIFT).sub_(_FIRST - 1).clamp_(0, _SIDE)
    sign = bits >> 31  # -1 for negative numbers, 0 otherwise
    return magnitude.bitwise_xor_(sign).sub_(sign).add_(ZERO_BIN)


def _counts(x: Tensor) -> Tensor:
    """The counts of many elements, int64[BINS]: of all top 18 bits first, which is quicker."""
    counts = torch.zeros(BINS, dtype=torch.int64)
    last = _FIRST + _SIDE - 1
    for chunk in x.split(_CHUNK):
        keys = (chunk.view(torch.int32) >> _SHIFT).add_(_SIGN)
        found = torch.bincount(keys, minlength=_SIGN + last)
        negative, positive = found[:_SIGN], found[_SIGN:]  # each in order of magnitude
        counts[ZERO_BIN] += negative[:_FIRST].sum() + positive[:_FIRST].sum()
        counts[ZERO_BIN + 1 : -1] += positive[_FIRST:last]
        counts[1:ZERO_BIN] += negative[_FIRST:last].flip(0)
        counts[-1] += positive[last:].sum()
        counts[0] += negative[last:].sum()
    return counts


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts and exact extent of everything that was added.

    counts: int64[BINS].
    extent: float32[2], the least and the greatest value; (inf, -inf) if there is none.
    """

    counts: Tensor
    extent: Tensor

    @classmethod
    def empty(cls) -> Self:
        """Return a histogram of nothing."""
        return cls(torch.zeros(BINS, dtype=torch.int64), torch.tensor([torch.inf, -torch.inf]))

    def add(self, x: Tensor) -> Histogram:
        """Return a new histogram that also holds the elements of `x`; raises like `extent`."""
        ends = merge_extents(self.extent, extent(x))
        flat = x.detach().reshape(-1)
        if flat.numel() <= _FEW:
            found = torch.bincount(bin_indices(flat), minlength=BINS)
        else:
            found = _counts(flat)
        return Histogram(self.counts + found, ends)

    def merge(self, other: Histogram) -> Histogram:
        """Return the histogram of both sets of data; exactly associative and commutative."""
        return Histogram(self.counts + other.counts, merge_extents(self.extent, other.extent))

    def edges(self) -> Floats:
        """Return the bounds of the bins, float64[BINS + 1], moved to where the data ends.

        So no bin reaches beyond the extent, and bins outside it have width 0.
        """
        lo, hi = (float(end) for end in self.extent)
        edges = bin_edges()
        edges[0], edges[-1] = min(edges[0], lo), max(edges[-1], hi)
        return np.clip(edges, lo, hi)

    def quantile(self, fraction: float) -> float:
        """Return the value below which `fraction` of the data lies, linear inside a bin."""
        counts = self.counts.numpy()
        below = np.cumsum(counts)
        target = fraction * float(below[-1])
        index = int(np.searchsorted(below, max(target, 1.0)))
        inside = (target - float(below[index] - counts[index])) / float(counts[index])
        left, right = self.edges()[index : index + 2]
        return float(left + (right - left) * min(max(inside, 0.0), 1.0))

    def central(self, share: float) -> tuple[float, float]:
        """Return the range that holds this share of the values other than 0, widened to contain 0.

        The rest lies half at each end. The zero bin does not count, since every grid has 0 exactly
        and most of a value may be 0. The range is (0, 0) if there is nothing else.
        """
        counts = self.counts.clone()
        counts[ZERO_BIN] = 0
        if not bool(counts.any()):
            return 0.0, 0.0
        others, tail = Histogram(counts, self.extent), (1.0 - share) / 2.0
        return min(others.quantile(tail), 0.0), max(others.quantile(1.0 - tail), 0.0)

    def side(self, sign: int) -> Density:
        """Return the density of |x| over the elements of one sign, without the zero bin."""
        counts, edges = self.counts.numpy(), self.edges()
        if sign > 0:
            return Density.of(counts[ZERO_BIN + 1 :], edges[ZERO_BIN + 1 :])
        return Density.of(counts[:ZERO_BIN][::-1], -edges[: ZERO_BIN + 1][::-1])


@dataclass(frozen=True, eq=False)
class Density:
    """A density of magnitudes, uniform inside each occupied bin, with its running moments.

    left, right, count: float64[n], the occupied bins, ascending; one of width 0 is a point mass.
    before: float64[3, n + 1], the sums of x**0, x**1 and x**2 over everything before bin i.
    """

    left: Floats
    right: Floats
    count: Floats
    before: Floats

    @classmethod
    def of(cls, counts: NDArray[np.int64], edges: Floats) -> Self:
        """Return the density of `counts` (int64[n]) between ascending `edges` (float64[n + 1])."""
        occupied = np.flatnonzero(counts)
        left, right = edges[occupied], edges[occupied + 1]
        count = counts[occupied].astype(np.float64)
        moments = count * _uniform_moments(left, right)
        before = np.concatenate([np.zeros((3, 1)), np.cumsum(moments, axis=1)], axis=1)
        return cls(left, right, count, before)

    @property
    def total(self) -> Floats:
        """The sums of x**0, x**1 and x**2 over everything, float64[3]."""
        return self.before[:, -1]

    def moments_below(self, x: Floats) -> Floats:
        """Return the sums of x**0, x**1 and x**2 over what is below `x`: float64[3, *x.shape]."""
        if self.count.size == 0:
            return np.zeros((3, *x.shape))
        index = np.searchsorted(self.left, x.ravel(), side="right") - 1
        started = index >= 0
        np.maximum(index, 0, out=index)
        left, right, count = self.left[index], self.right[index], self.count[index]
        end = np.clip(x.ravel(), left, right)
        width = right - left
        wide = width > 0
        inside = np.subtract(end, left)
        np.divide(inside, width, out=inside, where=wide)
        np.copyto(inside, 1.0, where=~wide)
        inside *= np.multiply(started, count, out=count)
        moments = _uniform_moments(left, end)
        moments *= inside
        moments += np.take(self.before, index, axis=1)
        return moments.reshape(3, *x.shape)


def _uniform_moments(left: Floats, right: Floats) -> Floats:
    """Return the means of x**0, x**1 and x**2, uniformly distributed from `left` to `right`."""
    moments = np.empty((3, *left.shape))
    moments[0] = 1.0
    np.divide(np.add(left, right, out=moments[1]), 2.0, out=moments[1])
    second = np.multiply(left, left, out=moments[2])
    second += left * right
    second += right * right
    second /= 3.0
    return moments
