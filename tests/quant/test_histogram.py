from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpc.errors import CalibrationError
from qpc.quant.histogram import BINS, ZERO_BIN, Density, Histogram, bin_edges, bin_indices, extent

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
batches = st.lists(floats, max_size=20).map(lambda xs: torch.tensor(xs, dtype=torch.float32))


def histogram(*data: torch.Tensor) -> Histogram:
    result = Histogram.empty()
    for x in data:
        result = result.add(x)
    return result


def same(a: Histogram, b: Histogram) -> bool:
    return torch.equal(a.counts, b.counts) and torch.equal(a.extent, b.extent)


def test_edges_ascend_and_number_one_more_than_the_bins() -> None:
    edges = bin_edges()
    assert len(edges) == BINS + 1
    assert (np.diff(edges) > 0).all()


def test_bins_are_narrow_relative_to_what_they_hold() -> None:
    left = bin_edges()[ZERO_BIN + 1 : -1]
    right = bin_edges()[ZERO_BIN + 2 :]
    assert ((right - left) / left).max() <= 2.0**-9


@given(floats.filter(lambda x: abs(x) < 2.0**32))
def test_a_value_lies_between_the_edges_of_its_bin(x: float) -> None:
    index = int(bin_indices(torch.tensor([x])))
    left, right = bin_edges()[index : index + 2]
    assert left <= x <= right
    assert x in (0.0, left, right) or index == int(np.searchsorted(bin_edges(), x)) - 1


def test_edges_belong_to_the_bin_away_from_zero() -> None:
    positive = torch.from_numpy(bin_edges()[ZERO_BIN + 1 : -1]).float()
    above_zero = torch.arange(ZERO_BIN + 1, BINS, dtype=torch.int32)
    assert torch.equal(bin_indices(positive), above_zero)
    assert torch.equal(bin_indices(-positive), BINS - 1 - above_zero)


def test_zeros_and_underflows_share_the_zero_bin() -> None:
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 2.0**-33, -1e-38])
    assert bin_indices(x).unique().tolist() == [ZERO_BIN]


def test_overflows_share_the_outermost_bins() -> None:
    assert bin_indices(torch.tensor([1e30, 2.0**32])).tolist() == [BINS - 1] * 2
    assert bin_indices(torch.tensor([-1e30, -(2.0**32)])).tolist() == [0, 0]


def test_extents_are_exact_and_have_no_negative_zero() -> None:
    assert (
        extent(torch.tensor([[0.1, -7.3], [3.0, 2.0]])).tolist()
        == torch.tensor([-7.3, 3.0]).tolist()
    )
    assert not torch.signbit(extent(torch.tensor([-0.0]))).any()
    assert extent(torch.empty(0)).tolist() == [float("inf"), float("-inf")]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_data_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(
        CalibrationError, match="calibration data holds NaN or infinite values"
    ) as e:
        Histogram.empty().add(torch.tensor([1.0, bad, 2.0]))
    assert "fix: check the samples" in e.value.full_text


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(TypeError, match=r"observers take float32, got torch\.float16"):
        Histogram.empty().add(torch.zeros(2, dtype=torch.float16))


def test_counts_match_numpy() -> None:
    x = torch.randn(10_000) * torch.logspace(-6, 6, 10_000)
    expected, _ = np.histogram(x.abs().numpy(), bin_edges()[ZERO_BIN + 1 :])
    counts = histogram(x).counts
    assert torch.equal(counts[ZERO_BIN + 1 :] + counts[:ZERO_BIN].flip(0), torch.tensor(expected))


@given(batches, batches, batches)
def test_merging_is_associative_commutative_and_the_same_as_one_run(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor
) -> None:
    x, y, z = histogram(a), histogram(b), histogram(c)
    assert same(x.merge(y), y.merge(x))
    assert same(x.merge(y).merge(z), x.merge(y.merge(z)))
    assert same(x.merge(y).merge(z), histogram(torch.cat([c, a, b])))
    assert same(x.merge(Histogram.empty()), x)


def test_adding_leaves_the_old_histogram_alone() -> None:
    old = histogram(torch.ones(3))
    old.add(torch.full((5,), 2.0))
    assert same(old, histogram(torch.ones(3)))


def test_memory_layout_and_gradients_do_not_matter() -> None:
    x = torch.randn(2, 3, 5, 7)
    expected = histogram(x)
    assert same(histogram(x.to(memory_format=torch.channels_last)), expected)
    assert same(histogram(x.transpose(1, 3)), expected)
    assert same(histogram(x.clone().requires_grad_()), expected)


def test_large_batches_are_counted_completely() -> None:
    x = torch.randn(600_001)  # more than two chunks
    whole = histogram(x)
    assert whole.counts.sum() == len(x)
    assert same(whole, histogram(*x.split(1000)))


def test_edges_end_where_the_data_ends() -> None:
    edges = histogram(torch.tensor([-0.3, 0.1, 1e20])).edges()
    assert (edges[0], edges[-1]) == (float(np.float32(-0.3)), float(np.float32(1e20)))
    assert (np.diff(edges) >= 0).all()


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.2, 0.5, 0.77, 0.999, 1.0])
def test_quantiles_are_those_of_the_data_to_a_bin(fraction: float) -> None:
    x = torch.randn(5000)
    exact = float(np.quantile(x.numpy(), fraction, method="inverted_cdf"))
    assert histogram(x).quantile(fraction) == pytest.approx(exact, rel=2.0**-9)


def test_the_outer_quantiles_are_the_extent() -> None:
    x = histogram(torch.tensor([-3.1, 1.0, 2.2, 1e33]))
    assert [x.quantile(0.0), x.quantile(1.0)] == x.extent.tolist()


def test_each_side_holds_the_magnitudes_of_its_sign_without_zeros() -> None:
    x = torch.tensor([-4.0, -4.0, 0.0, 0.0, 1.0, 2.0, 3.0])
    assert histogram(x).side(+1).total[0] == 3
    assert histogram(x).side(-1).total.tolist() == pytest.approx([2, 8, 32], rel=2.0**-9)
    assert histogram(torch.zeros(3)).side(+1).total.tolist() == [0, 0, 0]


def test_moments_below_are_integrals_of_the_density() -> None:
    density = Density.of(np.array([4, 0, 2, 3]), np.array([1.0, 2.0, 3.0, 5.0, 5.0]))
    x = np.array([[0.0, 1.0, 1.5], [2.5, 4.0, 9.0]])
    samples = np.concatenate(
        [
            np.repeat(1.0 + (np.arange(2000) + 0.5) / 2000, 4),
            np.repeat(3.0 + 2 * (np.arange(2000) + 0.5) / 2000, 2),
            np.full(6000, 5.0),
        ]
    )
    below = density.moments_below(x)
    assert below.shape == (3, 2, 3)
    for power in range(3):
        for index, limit in np.ndenumerate(x):
            expected = (samples[samples < limit] ** power).sum() / 2000
            assert below[power][index] == pytest.approx(expected, rel=1e-6)  # of 2000 midpoints


def test_moments_of_nothing_are_zero() -> None:
    density = histogram(torch.zeros(1)).side(+1)
    assert density.moments_below(np.ones((2, 2))).tolist() == np.zeros((3, 2, 2)).tolist()


def test_the_central_range_leaves_tails_out_and_zeros_out_of_account() -> None:
    data = torch.cat([torch.zeros(10**6), torch.linspace(1.0, 2.0, 10_000), torch.tensor([1e4])])
    lo, hi = Histogram.empty().add(data).central(0.99)
    assert lo == 0.0
    assert hi == pytest.approx(1.995, rel=2e-3)  # a bin is 0.2 % wide
    lo, hi = Histogram.empty().add(-data).central(0.99)
    assert lo == pytest.approx(-1.995, rel=2e-3)
    assert hi == 0.0


def test_a_histogram_of_zeros_has_no_width() -> None:
    assert Histogram.empty().add(torch.zeros(5)).central(0.99) == (0.0, 0.0)
    assert Histogram.empty().central(0.99) == (0.0, 0.0)
