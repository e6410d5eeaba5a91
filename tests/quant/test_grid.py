from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpc.calls import qpc_ops
from qpc.quant.grid import LARGEST_SCALE, SMALLEST_SCALE, Grid, QParams, nearest_scale

GRIDS = [Grid(bits, signed) for bits, signed in itertools.product(range(2, 9), (False, True))]
INT8 = Grid(8, signed=True)
UINT8 = Grid(8)


def reals(limit: float) -> st.SearchStrategy[float]:
    return st.floats(-float(np.float32(limit)), float(np.float32(limit)), width=32)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_grid_has_two_to_the_bits_points_inside_its_dtype(grid: Grid) -> None:
    limits = torch.iinfo(grid.dtype)
    assert grid.hi - grid.lo + 1 == 2**grid.bits
    assert limits.min <= grid.lo <= grid.middle <= grid.hi <= limits.max
    assert grid.hi - grid.middle == grid.middle - grid.lo - 1


def test_grids_of_eight_bits_fill_their_dtypes() -> None:
    assert (UINT8.lo, UINT8.middle, UINT8.hi, UINT8.dtype) == (0, 128, 255, torch.uint8)
    assert (INT8.lo, INT8.middle, INT8.hi, INT8.dtype) == (-128, 0, 127, torch.int8)


@pytest.mark.parametrize("bits", [1, 9])
def test_a_grid_refuses_other_bit_widths(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits must be from 2 to 8, got {bits}"):
        Grid(bits)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, 2.0**-127, 2.0**120])
def test_qparams_refuse_scales_at_which_float32_overflows_or_underflows(scale: float) -> None:
    with pytest.raises(ValueError, match=r"scale must be from 2\*\*-126 to 2\*\*119"):
        QParams(scale, 0, 0, 255, torch.uint8)


def test_qparams_refuse_scales_that_float32_cannot_hold() -> None:
    with pytest.raises(ValueError, match=r"scale must be an exact float32 value, got 0\.1"):
        QParams(0.1, 0, 0, 255, torch.uint8)


def test_qparams_refuse_other_dtypes() -> None:
    with pytest.raises(
        ValueError, match=r"dtype must be torch\.uint8 or torch\.int8, got torch\.int32"
    ):
        QParams(1.0, 0, 0, 255, torch.int32)


@pytest.mark.parametrize(("lo", "hi"), [(-1, 255), (0, 256), (7, 7), (9, 8)])
def test_qparams_refuse_bounds_that_are_no_grid(lo: int, hi: int) -> None:
    with pytest.raises(ValueError, match=rf"no torch\.uint8 grid from lo={lo} to hi={hi}"):
        QParams(1.0, 7, lo, hi, torch.uint8)


@pytest.mark.parametrize("zero_point", [-1, 16])
def test_qparams_refuse_a_zero_point_outside_the_grid(zero_point: int) -> None:
    with pytest.raises(
        ValueError, match=f"zero_point must be from lo=0 to hi=15, got {zero_point}"
    ):
        QParams(1.0, zero_point, 0, 15, torch.uint8)


@pytest.mark.parametrize(("lo", "hi"), [(1.0, 0.0), (math.nan, 1.0), (0.0, math.inf)])
def test_from_range_refuses_what_is_no_range(lo: float, hi: float) -> None:
    with pytest.raises(ValueError, match=f"no range from {lo} to {hi}"):
        QParams.from_range(lo, hi, UINT8, symmetric=False)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_range_that_starts_at_zero_has_the_lowest_point_as_zero_point(grid: Grid) -> None:
    qparams = QParams.from_range(0.0, 6.0, grid, symmetric=False)
    assert qparams.zero_point == grid.lo
    assert qparams.scale == float(np.float32(6.0 / (grid.hi - grid.lo)))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_range_that_ends_at_zero_has_the_highest_point_as_zero_point(grid: Grid) -> None:
    assert QParams.from_range(-3.0, 0.0, grid, symmetric=False).zero_point == grid.hi


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_symmetric_puts_zero_in_the_middle_and_the_larger_end_on_the_highest_point(
    grid: Grid,
) -> None:
    qparams = QParams.from_range(-5.0, 2.0, grid, symmetric=True)
    assert qparams.zero_point == grid.middle
    assert qparams.real_range[1] == pytest.approx(5.0, rel=1e-6)


def test_ranges_are_widened_to_contain_zero() -> None:
    assert QParams.from_range(2.0, 3.0, UINT8, symmetric=False) == QParams.from_range(
        0.0, 3.0, UINT8, symmetric=False
    )
    assert QParams.from_range(-3.0, -2.0, UINT8, symmetric=False) == QParams.from_range(
        -3.0, 0.0, UINT8, symmetric=False
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_range_of_nothing_but_zero_has_scale_one(symmetric: bool) -> None:
    qparams = QParams.from_range(0.0, 0.0, INT8, symmetric=symmetric)
    assert qparams.scale == 1.0
    assert qparams.quantize(torch.zeros(1)).item() == qparams.zero_point


def test_scales_end_where_float32_stops_being_normal() -> None:
    assert QParams.from_range(0.0, 1e-44, UINT8, symmetric=False).scale == SMALLEST_SCALE
    assert QParams.from_range(-3e38, 3e38, Grid(2), symmetric=False).scale == LARGEST_SCALE
    assert nearest_scale(0.1) == float(np.float32(0.1))


def test_extreme_scales_still_quantize() -> None:
    tiny = QParams.from_range(0.0, 1e-35, UINT8, symmetric=False)
    huge = QParams.from_range(0.0, 1e38, UINT8, symmetric=False)
    assert tiny.quantize(torch.tensor([0.0, 1e-35, 1e38])).tolist() == [0, 255, 255]
    assert huge.quantize(torch.tensor([0.0, 1e-35, 1e38])).tolist() == [0, 0, 255]


@pytest.mark.parametrize("zero_point", [0, 255])
def test_every_grid_point_is_a_finite_number(zero_point: int) -> None:
    qparams = QParams(LARGEST_SCALE, zero_point, 0, 255, torch.uint8)
    assert qparams.dequantize(torch.arange(256)).isfinite().all()


def test_ties_round_to_even() -> None:
    qparams = QParams(0.5, 0, -128, 127, torch.int8)
    x = torch.tensor([0.25, 0.75, 1.25, -0.25, -0.75])
    assert qparams.quantize(x).tolist() == [0, 2, 2, 0, -2]


def test_nan_quantizes_to_the_lowest_point_and_infinity_saturates() -> None:
    qparams = QParams(0.5, 3, 1, 9, torch.uint8)
    x = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert qparams.quantize(x).tolist() == [1, 9, 1]


def test_quantize_refuses_other_dtypes() -> None:
    with pytest.raises(TypeError, match=r"quantize takes float32, got torch\.float64"):
        QParams(1.0, 0, 0, 255, torch.uint8).quantize(torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_quantize_and_dequantize_are_the_operators(grid: Grid, symmetric: bool) -> None:
    qparams = QParams.from_range(-1.3, 2.9, grid, symmetric=symmetric)
    x = torch.cat([torch.randn(500) * 2, torch.tensor([torch.nan, torch.inf, -torch.inf, 1e38])])
    q = qpc_ops.quantize(
        x, qparams.scale, qparams.zero_point, qparams.lo, qparams.hi, qparams.dtype
    )
    assert torch.equal(qparams.quantize(x), q)
    assert torch.equal(
        qparams.dequantize(q), qpc_ops.dequantize(q, qparams.scale, qparams.zero_point)
    )


@given(
    ends=st.tuples(reals(1e6), reals(1e6)).map(sorted),
    fraction=st.floats(0.0, 1.0),
    grid=st.sampled_from(GRIDS),
    symmetric=st.booleans(),
)
def test_a_round_trip_inside_the_range_stays_within_half_a_scale(
    ends: list[float], fraction: float, grid: Grid, symmetric: bool
) -> None:
    lo, hi = min(ends[0], 0.0), max(ends[1], 0.0)
    qparams = QParams.from_range(lo, hi, grid, symmetric=symmetric)
    x = torch.tensor([lo + fraction * (hi - lo)], dtype=torch.float32)
    error = (qparams.fake_quantize(x).double() - x.double()).abs().item()
    assert error <= 0.501 * qparams.scale  # 0.5, and 256 roundings of float32


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_grid_points_survive_a_round_trip(grid: Grid) -> None:
    qparams = QParams.from_range(-0.7, 1.9, grid, symmetric=False)
    points = torch.arange(grid.lo, grid.hi + 1).to(grid.dtype)
    assert torch.equal(qparams.quantize(qparams.dequantize(points)), points)


@given(reals(1e30).filter(lambda x: abs(x) > 1e-30))
def test_fake_quantizing_twice_changes_nothing(x: float) -> None:
    qparams = QParams.from_range(min(x, -x / 3), max(x, -x / 3), UINT8, symmetric=False)
    once = qparams.fake_quantize(torch.tensor([x, -x, x / 7]))
    assert torch.equal(qparams.fake_quantize(once), once)


def test_signed_and_unsigned_grids_stand_for_the_same_reals() -> None:
    x = torch.randn(1000)
    unsigned = QParams.from_range(-1.1, 2.3, UINT8, symmetric=False)
    signed = QParams.from_range(-1.1, 2.3, INT8, symmetric=False)
    assert unsigned.zero_point - signed.zero_point == 128
    assert torch.equal(unsigned.fake_quantize(x), signed.fake_quantize(x))


def test_the_real_range_is_what_the_end_points_stand_for() -> None:
    qparams = QParams.from_range(-1.1, 2.3, UINT8, symmetric=False)
    ends = qparams.dequantize(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
    assert qparams.real_range == pytest.approx(ends, rel=1e-6)
