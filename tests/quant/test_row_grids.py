"""Grids that are found at run time: the rules of other grids, for each row by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qpc.quant.grid import QParams
from qpc.quant.row_grids import RowGrids

# of these, any row has a grid that other values might have, too
floats = st.floats(-(2.0**125), 2.0**125, width=32, allow_subnormal=False)
rows = arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 6)), elements=floats)


@given(rows)
def test_a_row_has_the_integers_of_a_grid_with_its_scale_and_zero_point(x: np.ndarray) -> None:
    real = torch.from_numpy(x)
    found = RowGrids.of(real)
    for row, scale, zero, centred in zip(
        real, found.scale, found.zero_point, found.centred(real), strict=True
    ):
        grid = QParams(float(scale), int(zero), 0, 255, torch.uint8)
        assert torch.equal(centred, grid.quantize(row).int() - grid.zero_point)


@given(rows)
def test_a_row_is_met_to_about_half_a_step(x: np.ndarray) -> None:
    real = torch.from_numpy(x)
    found = RowGrids.of(real)
    back = found.centred(real).double() * found.scale.double()
    # zero points are rounded, so that the ends of a range may lie half a step outside the grid
    assert bool(((back - real.double()).abs() <= 1.001 * found.scale.double()).all())


def test_a_row_from_zero_up_uses_all_integers() -> None:
    found = RowGrids.of(torch.tensor([[0.0, 1.0, 255.0]]))
    assert (found.scale.item(), found.zero_point.item()) == (1.0, 0)
    assert found.centred(torch.tensor([[0.0, 1.5, 255.0]])).tolist() == [[0, 2, 255]]


def test_the_widest_range_of_floats_does_not_overflow() -> None:
    most = torch.finfo(torch.float32).max
    found = RowGrids.of(torch.tensor([[-most, most]]))
    assert found.scale.isfinite().all()
    assert found.centred(torch.tensor([[-most, most]])).tolist() == [[-128, 127]]


@pytest.mark.parametrize("strange", [float("nan"), float("inf"), float("-inf")])
def test_a_row_with_a_strange_value_has_no_scale_and_others_are_not_touched(strange: float) -> None:
    x = torch.tensor([[1.0, strange], [0.0, 255.0]])
    found = RowGrids.of(x)
    assert found.real_scale().isnan().flatten().tolist() == [True, False]
    assert found.centred(x)[1].tolist() == [0, 255]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_matrices_have_empty_integers(shape: tuple[int, int]) -> None:
    x = torch.zeros(shape)
    found = RowGrids.of(x)
    assert found.scale.shape == (shape[0], 1)
    assert found.centred(x).shape == shape
