"""Searches for the range of reals that a grid should span, given a histogram of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qpc.quant.grid import Grid
from qpc.quant.histogram import Density, Floats, Histogram

Indices = NDArray[np.int64]

_STEP = 2.0 ** (-1 / 96)  # candidate scales are 0.72 % apart
_SCALES = 768  # down to 1/256 of the full range
_LINEAR_BINS = 4096
_LEAST_WIDTH = _LINEAR_BINS // 16  # a bin for each of 256 grid points
_CUT = 4  # bins by which a range is cut at a time: 0.1 % of the full range
_SWEEPS = 8
_SOME = 24  # scales of which one is tried first


# --- least squares ------------------------------------------------------------------------------


def least_squares_range(
    histogram: Histogram, grid: Grid, *, symmetric: bool
) -> tuple[float, float]:
    """Return the range, inside the observed one, whose grid has the least expected squared error.

    Tries 768 scales, 0.72 % apart, with every zero point. Each bin counts as uniformly distributed
    over its width; the error of rounding and clipping together is then exact. The zero bin has no
    error on any grid. Of equally good ranges the widest wins.
    """
    lo, hi = _observed(histogram)
    steps, above = grid.hi - grid.lo, grid.hi - grid.middle
    full = max(-lo, hi) / above if symmetric else (hi - lo) / steps
    if full == 0.0:
        return lo, hi
    scales: Floats = full * np.power(_STEP, np.arange(_SCALES, dtype=np.float64))
    # A grid is to be had from any range of its width that rounds to its zero point: take the one
    # nearest to the grid that is inside the observed range, and drop the grid if that has another
    # zero point.
    scale, points_above = scales[:, None], np.arange(steps + 1)
    starts = np.clip((points_above - steps) * scale, lo, hi - steps * scale)
    reachable = np.rint(-starts / scale) == steps - points_above
    if symmetric:
        reachable = np.broadcast_to(points_above == above, reachable.shape)
    sides = histogram.side(+1), histogram.side(-1)
    errors = _least_errors(sides, scales, steps, reachable)
    best = np.unravel_index(int(errors.argmin()), errors.shape)
    if symmetric:
        reach = above * float(scales[best[0]])
        return max(-reach, lo), min(reach, hi)
    start = float(starts[best])
    return start, start + steps * float(scales[best[0]])


def _least_errors(
    sides: tuple[Density, Density], scales: Floats, steps: int, wanted: NDArray[np.bool_]
) -> Floats:
    """Return [scale, grid points above the zero point], the squared error where it may be least.

    It is infinite where it is not `wanted`, and for scales at which what lies beyond all grid
    points of its side alone costs more than some other scale does in all.
    """
    errors = np.full(wanted.shape, np.inf)

    def fill(rows: Indices) -> None:
        positive, negative = (_side_errors(side, scales[rows], steps) for side in sides)
        errors[rows] = np.where(wanted[rows], positive + negative[:, ::-1], np.inf)

    some = np.arange(0, len(scales), _SOME)
    fill(some)
    clipped = sum(_clipped(side, steps * scales, 0.5 * scales) for side in sides)
    noise = 1e-12 * float(sum(side.total[2] for side in sides))  # far above that of float64
    possible = clipped <= errors.min() * (1.0 + 1e-6) + noise
    possible[some] = False
    fill(np.flatnonzero(possible))
    return errors


def _clipped(density: Density, reach: Floats, half: Floats) -> Floats:
    """Return the squared error of the magnitudes that round to `reach`, or would beyond it."""
    beyond = density.total[:, None] - density.moments_below(reach - half)
    return _squared(beyond, reach)


def _side_errors(density: Density, scales: Floats, steps: int) -> Floats:
    """Return [scale, p], the squared error of magnitudes on p + 1 points: 0, scale .. p * scale."""
    if density.count.size == 0:  # as on one side of every ReLU
        return np.zeros((len(scales), steps + 1))
    points = np.arange(steps + 1) * scales[:, None]
    below = density.moments_below(points + 0.5 * scales[:, None])  # what rounds down to a point
    before = np.zeros_like(below)
    before[:, :, 1:] = below[:, :, :-1]
    below -= before
    cells = _squared(below, points)
    rounded = np.cumsum(cells, axis=1) - cells  # on all points but the last
    return rounded + _squared(density.total[:, None, None] - before, points)


def _squared(moments: Floats, centre: Floats) -> Floats:
    """Return the sum of (x - centre)**2 from the sums of x**0, x**1 and x**2; at least 0."""
    error: Floats = 2.0 * centre
    error *= moments[1]
    np.subtract(moments[2], error, out=error)
    square = centre * centre
    square *= moments[0]
    error += square
    return np.maximum(error, 0.0, out=error)


# --- least divergence ---------------------------------------------------------------------------


def least_divergence_range(
    histogram: Histogram, grid: Grid, *, symmetric: bool
) -> tuple[float, float]:
    """Return the range, inside the observed one, that loses the least information on the grid.

    The data is spread over 4096 linear bins. A range of bins, with what lies outside added to its
    end bins, is compared with the reduction of its own data to as many cells as the grid has
    points. The range with the least Kullback-Leibler divergence wins, of equally good ones the
    widest; all have at least 1/16 of the full width. The zero bin, which every grid represents
    exactly, does not count.

    This is the calibration of TensorRT (Migacz, "8-bit inference with TensorRT", GTC 2017), which
    has one end to choose; two ends are chosen in turn, until neither moves.
    """
    lo, hi = _observed(histogram)
    if symmetric:
        lo, hi = min(lo, -hi), max(hi, -lo)
    edges = lo + (hi - lo) * (np.arange(_LINEAR_BINS + 1) / _LINEAR_BINS)
    mass = np.maximum(np.diff(_count_below(histogram, edges)), 0.0)
    if mass.sum() == 0.0:
        return lo, hi
    spectrum = _Spectrum.of(mass, grid.hi - grid.lo + 1)
    start, stop = spectrum.best_centred() if symmetric else spectrum.best_around(edges)
    return float(edges[start]), float(edges[stop])


def _observed(histogram: Histogram) -> tuple[float, float]:
    lo, hi = (float(end) for end in histogram.extent)
    return min(lo, 0.0), max(hi, 0.0)


def _count_below(histogram: Histogram, x: Floats) -> Floats:
    """Return how many elements outside the zero bin lie below each `x`."""
    positive, negative = histogram.side(+1), histogram.side(-1)
    up = positive.moments_below(np.maximum(x, 0.0))[0]
    down = negative.moments_below(np.maximum(-x, 0.0))[0]
    count: Floats = np.where(x > 0.0, up, -down)
    return count


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """Masses of linear bins, to be reduced to `levels` cells.

    mass: float64[n].
    running: float64[3, n + 1], the sums of mass, of mass * log(mass) and of occupied bins before
    bin i.
    """

    mass: Floats
    running: Floats
    levels: int

    @classmethod
    def of(cls, mass: Floats, levels: int) -> Self:
        sums = np.cumsum([mass, _times_log(mass, mass), mass > 0.0], axis=1)
        return cls(mass, np.concatenate([np.zeros((3, 1)), sums], axis=1), levels)

    def best_centred(self) -> tuple[int, int]:
        """Return the best range with the same cut at both ends."""
        cuts = np.arange(0, (_LINEAR_BINS - _LEAST_WIDTH) // 2 + 1, _CUT)
        cut = int(cuts[self.divergence(cuts, _LINEAR_BINS - cuts).argmin()])
        return cut, _LINEAR_BINS - cut

    def best_around(self, edges: Floats) -> tuple[int, int]:
        """Return the best range that contains 0, one end after the other."""
        below_zero, above_zero = int((edges <= 0.0).sum()) - 1, int((edges < 0.0).sum())
        start, stop = 0, _LINEAR_BINS
        for _ in range(_SWEEPS):
            old = start, stop
            stops = np.arange(_LINEAR_BINS, max(above_zero, start + _LEAST_WIDTH) - 1, -_CUT)
            stop = int(stops[self.divergence(np.full_like(stops, start), stops).argmin()])
            starts = np.arange(0, min(below_zero, stop - _LEAST_WIDTH) + 1, _CUT)
            start = int(starts[self.divergence(starts, np.full_like(starts, stop)).argmin()])
            if (start, stop) == old:
                break
        return start, stop

    def divergence(self, start: Indices, stop: Indices) -> Floats:
        """Return the divergence, in nats, of each range of bins [start, stop) and its reduction.

        An end cell that holds nothing but what was cut off counts as one element, or else a single
        outlier would rule out every range without it.
        """
        width = (stop - start)[:, None]
        cells = start[:, None] + np.arange(self.levels + 1) * width // self.levels
        own, _, occupied = np.diff(self.running[:, cells], axis=2)  # each [range, cell]
        total, reduced = self.running[0, -1], own.copy()
        spread = self.running[1, stop] - self.running[1, start]  # sum of p * log(p)
        low, high = self.running[0, start], total - self.running[0, stop]  # what lies outside
        for cell, end, outside in ((0, start, low), (-1, stop - 1, high)):
            full = self.mass[end] + outside
            spread += _times_log(full, full) - _times_log(self.mass[end], self.mass[end])
            occupied[:, cell] += (self.mass[end] == 0.0) & (outside > 0.0)
            reduced[:, cell] += (own[:, cell] == 0.0) & (outside > 0.0)
        mean = reduced / np.maximum(occupied, 1.0)  # over the occupied bins of a cell
        shared = _times_log(own, mean).sum(axis=1)  # sum of p * log(q)
        shared += _times_log(low, mean[:, 0]) + _times_log(high, mean[:, -1])
        result: Floats = (spread - shared) / total + np.log(reduced.sum(axis=1) / total)
        return result


def _times_log(factor: Floats, value: Floats) -> Floats:
    """Return `factor * log(value)`, 0 where the value is 0."""
    result: Floats = factor * np.log(np.where(value > 0.0, value, 1.0))
    return result
