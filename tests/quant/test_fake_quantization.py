"""Rounding to grids in float: values are those of the grid, gradients those of the papers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qpc.quant.fake_quantization import Rounding
from qpc.quant.grid import QParams
from qpc.quant.pairs import are_safe, swap_groups

PER_TENSOR = Rounding(torch.tensor([0.1]), torch.tensor([2]), 0, 15)
PER_CHANNEL = Rounding(torch.tensor([0.1, 0.25, 0.5]), torch.tensor([0, 0, 0]), -7, 7, axis=1)
OFFSETS = Rounding(torch.tensor([0.1, 0.25, 0.5]), torch.tensor([3, 0, 9]), 0, 15, axis=1)
GROUPED = Rounding(torch.rand(6) + 0.1, torch.zeros(6, dtype=torch.int64), -7, 7, axis=1, groups=2)
EVERY_KIND = [PER_TENSOR, PER_CHANNEL, OFFSETS, GROUPED]


def values(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(seed)) * 2


def by_formula(rounding: Rounding, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the module's docstring, one value after the other."""
    dx, ds = torch.zeros_like(x), torch.zeros_like(rounding.step, dtype=torch.float64)
    dz = torch.zeros_like(ds)
    for place in range(x.numel()):
        i = list(torch.unravel_index(torch.tensor(place), x.shape))
        at = 0
        if len(ds) > 1:
            group = int(i[0]) // (x.shape[0] // rounding.groups)
            at = group * x.shape[rounding.axis] * (rounding.groups > 1) + int(i[rounding.axis])
        step, zero = float(rounding.step[at]), int(rounding.zero_point[at])
        v, low, high = float(x[tuple(i)]) / step, rounding.lo - zero, rounding.hi - zero
        gradient = float(g[tuple(i)])
        if low < v < high:
            dx[tuple(i)] = gradient
            ds[at] += gradient * (round(v) - v)
        else:
            ds[at] += gradient * (low if v <= low else high)
            dz[at] -= gradient * step
    return dx, ds, dz


@pytest.mark.parametrize("rounding", EVERY_KIND)
def test_gradients_are_those_of_the_formulas(rounding: Rounding) -> None:
    x, g = values(), values(1)
    found = rounding.gradients(g, x)
    for got, wanted in zip(found, by_formula(rounding, x, g), strict=True):
        assert got is not None
        torch.testing.assert_close(got.double(), wanted.double(), rtol=1e-6, atol=1e-5)
    assert torch.equal(rounding.input_gradient(g, x), found[0])


@pytest.mark.parametrize(
    ("shape", "axis", "groups"),
    [((4, 6, 3, 3), 0, 1), ((4, 1, 3, 3), 0, 1), ((6, 3, 2, 2), 1, 2), ((5, 7), 0, 1)],
)
def test_pairs_of_weights_can_be_made_safe(shape: tuple[int, ...], axis: int, groups: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    steps = torch.full((shape[axis] * groups,), 0.01)
    free = Rounding(steps, torch.zeros(len(steps), dtype=torch.int64), -127, 127, axis, groups)
    safe = replace(free, safe_pairs=True)
    first = swap_groups(safe.points(x), groups) if axis else safe.points(x)
    assert are_safe(first)
    assert torch.equal(safe.apply(x), safe.points(x) * 0.01)
    changed = safe.points(x) != free.points(x)
    assert changed.any()
    # gradients pass as if the points were the nearest; those of steps know what they are
    g = torch.ones(shape)
    inside, at_step, _ = safe.gradients(g, x)
    assert torch.equal(inside, free.input_gradient(g, x))
    others = [d for d in range(x.dim()) if d != axis]
    if groups == 1:
        moved = (safe.points(x) - free.points(x)).sum(others)
        torch.testing.assert_close(at_step, free.gradients(g, x)[1] + moved)


def test_one_step_for_all_pairs() -> None:
    x = torch.tensor([[1.0, 1.0, 0.3, -1.0]])
    one = Rounding(torch.tensor([0.01]), torch.zeros(1, dtype=torch.int64), -127, 127)
    safe = replace(one, safe_pairs=True)
    assert safe.points(x).tolist() == [[64.0, 64.0, 30.0, -100.0]]
    g = torch.ones_like(x)
    assert torch.equal(safe.input_gradient(g, x), one.input_gradient(g, x))
    assert float(safe.gradients(g, x)[1]) == pytest.approx(float(one.gradients(g, x)[1]) - 72)


@pytest.mark.parametrize("rounding", EVERY_KIND)
def test_gradients_are_those_of_clipping_where_rounding_is_held_fixed(rounding: Rounding) -> None:
    """Rounding is a constant offset to the straight-through estimator: the rest is smooth."""
    x = values().double()
    step = rounding.step.double()
    smooth = Rounding(
        step, rounding.zero_point, rounding.lo, rounding.hi, rounding.axis, rounding.groups
    )
    along, zero = smooth._along(x, step), smooth._along(x, rounding.zero_point)
    v = x / along
    offset = (v.round() - v) * ((v > rounding.lo - zero) & (v < rounding.hi - zero))

    def held(x: Tensor, step: Tensor) -> Tensor:
        along = smooth._along(x, step)
        inside = (x / along).clamp(min=rounding.lo - zero, max=rounding.hi - zero)
        return (inside + offset) * along

    assert torch.autograd.gradcheck(held, (x.requires_grad_(), step.requires_grad_()))
    g = values(1)
    held(x, step).backward(g.double())
    dx, ds, _ = rounding.gradients(g, values())
    torch.testing.assert_close(dx.double(), x.grad, rtol=0, atol=0)
    torch.testing.assert_close(ds.double(), step.grad, rtol=1e-5, atol=1e-5)


def test_values_are_those_of_quantizing_and_dequantizing() -> None:
    grid = QParams(0.0625, 17, 3, 200, torch.uint8)
    x = torch.cat([values().flatten() * 4, torch.tensor([torch.nan, torch.inf, -torch.inf, 1e38])])
    rounding = Rounding(torch.tensor([grid.scale]), torch.tensor([17]), 3, 200)
    assert torch.equal(rounding.apply(x), grid.fake_quantize(x))


def test_each_index_has_its_own_step_and_zero_point() -> None:
    x = values()
    whole = OFFSETS.apply(x)
    for i in range(3):
        one = Rounding(OFFSETS.step[i : i + 1], OFFSETS.zero_point[i : i + 1], 0, 15)
        assert torch.equal(whole[:, i], one.apply(x[:, i]))


def test_nan_becomes_the_lowest_point_for_any_zero_points() -> None:
    x = torch.full((1, 3), torch.nan)
    assert OFFSETS.apply(x).tolist() == [[pytest.approx(-0.3), 0.0, -4.5]]


def test_zero_points_that_are_learned_are_rounded() -> None:
    learned = Rounding(torch.tensor([0.1]), torch.tensor([2.4]), 0, 15)
    assert torch.equal(learned.apply(values()), PER_TENSOR.apply(values()))


def test_nothing_passes_outside_the_grid_and_inputs_are_left_alone() -> None:
    x, g = torch.tensor([-5.0, 0.31, 5.0]), torch.ones(3)
    assert PER_TENSOR.input_gradient(g, x).tolist() == [0.0, 1.0, 0.0]
    PER_TENSOR.gradients(g, x)
    assert x.tolist() == [-5.0, pytest.approx(0.31), 5.0]
    assert g.tolist() == [1.0, 1.0, 1.0]


def test_a_learned_step_that_became_negative_means_its_magnitude() -> None:
    x, g = values(), values(1)
    mirrored = replace(PER_CHANNEL, step=-PER_CHANNEL.step)
    assert torch.equal(mirrored.apply(x), PER_CHANNEL.apply(x))
    (dx, ds, _), (mirrored_dx, mirrored_ds, _) = (
        r.gradients(g, x) for r in (PER_CHANNEL, mirrored)
    )
    assert torch.equal(dx, mirrored_dx)
    assert torch.equal(ds, -mirrored_ds)


def test_a_step_of_zero_gives_numbers() -> None:
    nothing = replace(PER_TENSOR, step=torch.zeros(1))
    assert nothing.apply(values()).isfinite().all()
    found = nothing.gradients(values(1), values())
    assert all(each is not None and each.isfinite().all() for each in found)
