"""Grids that follow: moving averages, and exactly the grids that calibration would make of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qpc.quant.fake_quantization import Rounding
from qpc.quant.following import Following
from qpc.quant.grid import SMALLEST_SCALE, Grid, QParams

END = st.floats(-1e6, 1e6, width=32)


def grid(bits: int = 8) -> Rounding:
    return Rounding(torch.ones(1), torch.zeros(1, dtype=torch.int64), 0, 2**bits - 1)


def following(
    start: list[list[float]], decay: float = 0.0, *, symmetric: bool = False
) -> Following:
    return Following(torch.tensor(start)[..., None], 0, decay, symmetric, synchronized=True)


@given(a=END, b=END, bits=st.integers(2, 8), symmetric=st.booleans(), signed=st.booleans())
def test_the_grid_is_that_of_the_range(
    a: float, b: float, bits: int, symmetric: bool, signed: bool
) -> None:
    space = Grid(bits, signed=signed)
    found = Rounding(torch.ones(1), torch.zeros(1, dtype=torch.int64), space.lo, space.hi)
    x = torch.tensor([a, b])
    following([[0.0, 0.0]], symmetric=symmetric).update(x, found)
    expected = QParams.from_range(min(a, b), max(a, b), space, symmetric=symmetric)
    assert (float(found.step), int(found.zero_point)) == (expected.scale, expected.zero_point)


def test_ranges_are_moving_averages() -> None:
    moving = following([[-1.0, 1.0]], decay=0.75)
    moving.update(torch.tensor([-3.0, 0.0, 5.0]), grid())
    assert moving.range.flatten().tolist() == [-1.5, 2.0]


@pytest.mark.parametrize(
    "x", [torch.empty(0), torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf, 0.0])]
)
def test_what_has_no_range_changes_nothing(x: Tensor) -> None:
    moving, rounding = following([[-1.0, 1.0]], decay=0.5), grid()
    moving.update(x, rounding)
    assert moving.range.flatten().tolist() == [-1.0, 1.0]
    assert float(rounding.step) == QParams.from_range(-1, 1, Grid(), symmetric=False).scale


def test_a_grid_of_several_values_spans_them_all() -> None:
    moving, rounding = following([[0.0, 1.0], [-1.0, 0.5]]), grid()
    moving.update(torch.tensor([0.0, 4.0]), rounding)
    assert float(rounding.step) == QParams.from_range(-1, 4, Grid(), symmetric=False).scale


@pytest.mark.parametrize("groups", [1, 2])
def test_weights_have_a_step_for_each_channel_their_own_at_every_step(groups: int) -> None:
    steps = 3 * groups
    rounding = Rounding(
        torch.ones(steps), torch.zeros(steps, dtype=torch.int64), -127, 127, 1, groups
    )
    weight = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    weight[:2, 0] = 0.0
    state = Following(torch.zeros(1, 2, steps), 0, 0.0, symmetric=True, synchronized=False)
    state.update(weight, rounding)
    rows = weight.reshape(groups, -1, 3, 2).movedim(2, 1).reshape(steps, -1)
    expected = rows.abs().amax(1).double() / 127
    nothing = expected == 0
    assert torch.equal(rounding.step[~nothing], expected[~nothing].float())
    assert (rounding.step[nothing] == SMALLEST_SCALE).all()
    assert not rounding.zero_point.any()
