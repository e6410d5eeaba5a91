from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qpc.calls import qpc_ops
from qpc.quant.arithmetic import JOINED_BOUND, requantize_joined
from qpc.quant.fixedpoint import joined_multipliers

SCALES = st.floats(-12.0, 12.0).map(lambda e: 2.0**e)
BYTES = st.integers(0, 255)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(SCALES, SCALES)
def test_both_operands_and_the_result_have_room_on_the_common_grid(
    other: float, output: float
) -> None:
    factor, shift = joined_multipliers(other, output)
    assert 0 <= factor <= 2**15 - 1
    assert 255 * (2**shift + factor) <= JOINED_BOUND
    assert max(factor, 2**shift) >= 4000  # of the coarser of the two grids
    if shift:
        finer = round(other / output * 2.0 ** (shift + 1)) + 2 ** (shift + 1)
        assert 255 * finer > JOINED_BOUND


@settings(deadline=None)
@given(SCALES, BYTES, BYTES, st.integers(0, 2**20))
def test_the_inner_bound_changes_no_result(
    ratio: float, zero_point: int, other_zero_point: int, seed: int
) -> None:
    factor, shift = joined_multipliers(ratio, 1.0)
    acc = torch.randint(-(2**30), 2**30, (500,), generator=random(seed), dtype=torch.int32)
    acc = acc >> torch.arange(500, dtype=torch.int32) % 20
    other = torch.randint(0, 256, (500,), generator=random(seed), dtype=torch.uint8)
    multiplier = torch.ones(500)
    made = requantize_joined(
        acc, multiplier, other, other_zero_point, factor, shift, zero_point, 0, 255
    )
    own = acc.to(torch.float32).to(torch.int64)  # exact, without a bound, in more bits
    total = own + (other.to(torch.int64) - other_zero_point) * factor
    half = 2 ** (shift - 1) if shift else 0
    exact = (((total + half) >> shift) + zero_point).clamp(0, 255)
    assert torch.equal(made.to(torch.int64), exact)


def test_a_layer_and_an_addition_are_rounded_once() -> None:
    """The result is within half a step of the real sum, where two roundings would be up to one."""
    x = torch.randint(0, 256, (2, 5, 6, 6), generator=random(), dtype=torch.uint8)
    other = torch.randint(0, 256, (2, 4, 6, 6), generator=random(1), dtype=torch.uint8)
    weight = torch.randint(-127, 128, (4, 5, 3, 3), generator=random(2)).to(torch.int8)
    bias = torch.randint(-999, 999, (4,), generator=random(3), dtype=torch.int32)
    scale, other_scale, output_scale = 2e-4, 0.3, 0.5
    factor, shift = joined_multipliers(other_scale, output_scale)
    multiplier = torch.full((4,), scale / output_scale * 2**shift)
    made = qpc_ops.conv2d_add.default(
        x,
        weight,
        bias,
        multiplier,
        [1, 1],
        [1, 1],
        [1, 1],
        1,
        128,
        other,
        90,
        factor,
        shift,
        120,
        0,
        255,
    )
    centred = x.double() - 128
    sums = torch.nn.functional.conv2d(centred, weight.double(), bias.double(), padding=1)
    real = (sums * scale + (other.double() - 90) * other_scale) / output_scale + 120
    inside = (real > 0) & (real < 255)
    assert int(inside.sum()) > 100
    assert float((made.double() - real).abs()[inside].max()) <= 0.5 + 0.02
