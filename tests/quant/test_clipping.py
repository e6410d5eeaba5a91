from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qpc.quant.clipping import least_divergence_range, least_squares_range
from qpc.quant.grid import Grid, QParams
from qpc.quant.histogram import ZERO_BIN, Histogram

Search = Callable[..., tuple[float, float]]

UINT8, UINT4, INT4, INT2 = Grid(8), Grid(4), Grid(4, signed=True), Grid(2, signed=True)


def histogram(x: torch.Tensor) -> Histogram:
    return Histogram.empty().add(x)


def squared_error(x: torch.Tensor, lo: float, hi: float, grid: Grid, *, symmetric: bool) -> float:
    qparams = QParams.from_range(lo, hi, grid, symmetric=symmetric)
    return float(((qparams.fake_quantize(x) - x).double() ** 2).mean())


SAMPLES = {
    "normal": torch.randn(3000, generator=torch.Generator().manual_seed(1)),
    "skewed": torch.randn(3000, generator=torch.Generator().manual_seed(2)).exp() - 0.7,
    "relu": torch.randn(3000, generator=torch.Generator().manual_seed(3)).relu(),
    "negative": -torch.rand(3000, generator=torch.Generator().manual_seed(4)) - 1.0,
}


# --- least squares --------------------------------------------------------------------------------


@pytest.mark.every(2)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("grid", [UINT4, INT2], ids=["4 bits", "2 bits"])
@pytest.mark.parametrize("name", SAMPLES)
def test_no_range_of_a_brute_force_search_has_less_error(
    name: str, grid: Grid, symmetric: bool
) -> None:
    x = SAMPLES[name]
    least, greatest = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    found = squared_error(
        x, *least_squares_range(histogram(x), grid, symmetric=symmetric), grid, symmetric=symmetric
    )
    searched = min(
        squared_error(x, lo, hi, grid, symmetric=symmetric)
        for lo in np.linspace(least, 0.0, 30)
        for hi in np.linspace(greatest, 0.0, 30)
    )
    assert found <= searched * 1.005  # the search knows the bins, 0.2 % wide, not the data


def test_the_best_step_for_a_normal_distribution_is_the_known_one() -> None:
    # The best uniform quantizer with 16 levels has a step of 0.3352 and an error of 0.01154 of the
    # variance: Max, "Quantizing for minimum distortion", IRE Trans. Inform. Theory 6 (1960). A grid
    # that contains 0 has one more point below than above, so it does slightly worse.
    x = torch.special.ndtri((torch.arange(200_001, dtype=torch.float64) + 0.5) / 200_001).float()
    reach = least_squares_range(histogram(x), INT4, symmetric=True)[1]
    assert reach / 7 == pytest.approx(0.3352, rel=0.01)
    assert squared_error(x, -reach, reach, INT4, symmetric=True) == pytest.approx(0.0118, rel=0.01)


def test_uniform_data_keeps_its_whole_range() -> None:
    x = torch.linspace(0.0, 1.0, 100_000)
    lo, hi = least_squares_range(histogram(x), UINT8, symmetric=False)
    assert lo == 0.0
    assert hi == pytest.approx(1.0, rel=0.01)


def test_an_outlier_is_clipped_when_the_grid_is_coarse() -> None:
    x = torch.cat([torch.rand(10_000), torch.tensor([20.0])])
    fine = least_squares_range(histogram(x), UINT8, symmetric=False)[1]
    coarse = least_squares_range(histogram(x), UINT4, symmetric=False)[1]
    assert coarse < fine <= 20.0


def test_symmetric_ranges_are_symmetric_where_the_data_allows() -> None:
    x = torch.cat([torch.randn(10_000), torch.tensor([10.0, -10.0])])
    lo, hi = least_squares_range(histogram(x), INT4, symmetric=True)
    assert lo == -hi
    assert hi < 5.0


def test_the_best_range_scales_with_the_data() -> None:
    x = SAMPLES["skewed"]
    lo, hi = least_squares_range(histogram(x), UINT4, symmetric=False)
    scaled = least_squares_range(histogram(x * 1024.0), UINT4, symmetric=False)
    assert scaled == (lo * 1024.0, hi * 1024.0)


# --- least divergence -----------------------------------------------------------------------------


def reference_divergence(mass: NDArray[np.float64], start: int, stop: int, levels: int) -> float:
    """The original algorithm, word by word, with loops."""
    p = mass[start:stop].copy()
    low, high = mass[:start].sum(), mass[stop:].sum()
    p[0] += low
    p[-1] += high
    q = np.zeros_like(p)
    for level in range(levels):
        cell = slice(level * len(p) // levels, (level + 1) * len(p) // levels)
        own = mass[start:stop][cell].sum()
        if own == 0 and ((level == 0 and low) or (level == levels - 1 and high)):
            own = 1.0
        occupied = p[cell] > 0
        if occupied.any():
            q[cell] = occupied * own / occupied.sum()
    p, q = p / p.sum(), q / q.sum()
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def linear_bins(x: torch.Tensor, lo: float, hi: float) -> NDArray[np.float64]:
    """Spread the histogram over 4096 bins, bin by bin."""
    bins = histogram(x)
    edges, linear = bins.edges(), np.linspace(lo, hi, 4097)
    mass = np.zeros(4096)
    for i in np.flatnonzero(bins.counts.numpy()):
        if i != ZERO_BIN:
            share = np.diff(np.clip(linear, edges[i], edges[i + 1]))
            mass += float(bins.counts[i]) * share / (edges[i + 1] - edges[i])
    return mass


@pytest.mark.parametrize("grid", [INT4, Grid(6, signed=True)], ids=["4 bits", "6 bits"])
def test_no_symmetric_range_diverges_less_than_the_one_found(grid: Grid) -> None:
    x = SAMPLES["normal"]
    reach = float(x.abs().max())
    mass, levels = linear_bins(x, -reach, reach), grid.hi - grid.lo + 1
    lo, hi = least_divergence_range(histogram(x), grid, symmetric=True)
    cut = round((lo / reach + 1.0) * 2048)
    searched = min(reference_divergence(mass, c, 4096 - c, levels) for c in range(0, 1921, 16))
    assert lo == -hi
    assert reference_divergence(mass, cut, 4096 - cut, levels) <= searched * (1 + 1e-9)


def test_no_range_from_zero_diverges_less_than_the_one_found() -> None:
    x = SAMPLES["relu"]
    mass = linear_bins(x, 0.0, float(x.max()))
    lo, hi = least_divergence_range(histogram(x), UINT4, symmetric=False)
    stop = round(hi / float(x.max()) * 4096)
    searched = min(reference_divergence(mass, 0, s, 16) for s in range(256, 4097, 32))
    assert lo == 0.0
    assert reference_divergence(mass, 0, stop, 16) <= searched * (1 + 1e-9)


def test_neither_end_of_the_range_found_can_be_moved_to_diverge_less() -> None:
    x = SAMPLES["skewed"]
    least, greatest = float(x.min()), float(x.max())
    mass = linear_bins(x, least, greatest)
    lo, hi = least_divergence_range(histogram(x), UINT4, symmetric=False)
    start, stop = (round((end - least) / (greatest - least) * 4096) for end in (lo, hi))
    found = reference_divergence(mass, start, stop, 16)
    zero = int(-least / (greatest - least) * 4096)
    moved = [reference_divergence(mass, start, s, 16) for s in range(start + 256, 4097, 64)]
    moved += [reference_divergence(mass, s, stop, 16) for s in range(0, min(zero, stop - 256), 8)]
    assert found <= min(moved) * (1 + 1e-9)


def test_one_outlier_does_not_keep_the_range_wide() -> None:
    x = torch.cat([torch.randn(100_000).relu(), torch.tensor([60.0])])
    assert least_divergence_range(histogram(x), UINT8, symmetric=False)[1] < 10.0


def test_fewer_bits_cut_more() -> None:
    x = histogram(torch.randn(100_000))
    assert (
        least_divergence_range(x, UINT4, symmetric=False)[1]
        < least_divergence_range(x, UINT8, symmetric=False)[1]
    )


def test_zeros_do_not_count() -> None:
    x = torch.randn(5000).abs()
    with_zeros = torch.cat([x, torch.zeros(100_000)])
    assert least_divergence_range(histogram(x), UINT8, symmetric=False) == least_divergence_range(
        histogram(with_zeros), UINT8, symmetric=False
    )


# --- both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", [least_squares_range, least_divergence_range])
@pytest.mark.parametrize("symmetric", [False, True])
def test_data_in_the_zero_bin_keeps_its_whole_range(search: Search, symmetric: bool) -> None:
    lo, hi = search(histogram(torch.tensor([0.0, 1e-30])), UINT8, symmetric=symmetric)
    assert lo <= 0.0
    assert hi == pytest.approx(1e-30, rel=1e-6)


@pytest.mark.parametrize("search", [least_squares_range, least_divergence_range])
def test_zeros_alone_have_an_empty_range(search: Search) -> None:
    assert search(histogram(torch.zeros(5)), UINT8, symmetric=False) == (0.0, 0.0)
