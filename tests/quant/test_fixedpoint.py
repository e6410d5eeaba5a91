from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpc.calls import qpc_ops
from qpc.errors import OverflowProofError, PassError
from qpc.quant.config import WeightConfig
from qpc.quant.fixedpoint import (
    accumulator_bounds,
    add_multipliers,
    along,
    floor_scales_for_bias,
    lookup_table,
    quantize_bias,
    quantize_weight,
    requant_multiplier,
    requant_table,
    weight_limit,
    weight_scales,
)
from qpc.quant.grid import LARGEST_SCALE, SMALLEST_SCALE, Grid, QParams
from qpc.quant.observers import MSE

MSE_WEIGHTS = WeightConfig(observer=MSE())
BITS = range(2, 9)
scale_values = st.floats(-20.0, 20.0).map(lambda e: float(np.float32(2.0**e)))
seeds = st.integers(0, 2**31)


def squared_error(weight: torch.Tensor, scales: torch.Tensor, bits: int, axis: int = 0) -> float:
    q = quantize_weight(weight, scales, bits, axis)
    return float(((q * along(scales, weight.dim(), axis) - weight).double() ** 2).sum())


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
def test_the_largest_weight_of_each_channel_gets_the_highest_grid_point(bits: int) -> None:
    weight = torch.randn(5, 3, 2, 2)
    scales = weight_scales(weight, WeightConfig(bits=bits))
    q = quantize_weight(weight, scales, bits)
    assert scales.shape == (5,)
    assert scales.dtype == torch.float32
    assert q.dtype == torch.int8
    assert q.shape == weight.shape
    assert q.abs().amax((1, 2, 3)).tolist() == [weight_limit(bits)] * 5


def test_per_tensor_is_one_scale_and_per_channel_is_finer() -> None:
    weight = torch.randn(4, 9) * torch.tensor([[0.01], [0.1], [1.0], [10.0]])
    one = weight_scales(weight, WeightConfig(per_channel=False))
    each = weight_scales(weight, WeightConfig())
    assert one.shape == (1,)
    assert one[0] == each.max()
    assert squared_error(weight, each, 8) < squared_error(weight, one, 8)


@pytest.mark.parametrize("observer", ["min-max", "mse"])
def test_channels_lie_along_the_axis(observer: str) -> None:
    cfg = WeightConfig(observer=observer)  # type: ignore[arg-type]  # a name, as in YAML
    weight = torch.randn(3, 4, 2, 2)
    scales = weight_scales(weight, cfg, axis=1)
    swapped = weight.transpose(0, 1)
    assert torch.equal(scales, weight_scales(swapped, cfg))
    assert torch.equal(
        quantize_weight(weight, scales, 8, axis=1).transpose(0, 1),
        quantize_weight(swapped, scales, 8),
    )


def test_a_channel_of_zeros_gets_the_smallest_scale() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    for cfg in (WeightConfig(), MSE_WEIGHTS):
        scales = weight_scales(weight, cfg)
        assert scales[0] == SMALLEST_SCALE
        assert quantize_weight(weight, scales, 8)[0].tolist() == [0, 0]


@pytest.mark.parametrize("magnitude", [1e-44, 1e-30, 1e30, 3e38])
@pytest.mark.parametrize("observer", ["min-max", "mse"])
@pytest.mark.parametrize("bits", [2, 8])
def test_weights_of_any_magnitude_have_legal_scales(
    magnitude: float, observer: str, bits: int
) -> None:
    cfg = WeightConfig(bits=bits, observer=observer)  # type: ignore[arg-type]  # a name, as in YAML
    weight = torch.tensor([[1.0, -0.5, 0.25]]) * magnitude
    scales = weight_scales(weight, cfg)
    assert SMALLEST_SCALE <= scales.item() <= LARGEST_SCALE
    assert quantize_weight(weight, scales, bits).abs().max() <= weight_limit(bits)


@pytest.mark.parametrize("bits", BITS)
def test_mse_scales_beat_every_scale_of_a_fine_search(bits: int) -> None:
    weight = torch.randn(1, 300, generator=torch.Generator().manual_seed(bits))
    scales = weight_scales(weight, WeightConfig(bits=bits, observer=MSE()))
    widest = weight_scales(weight, WeightConfig(bits=bits))
    searched = min(
        squared_error(weight, widest * factor, bits) for factor in np.arange(0.2, 1.001, 0.002)
    )
    assert squared_error(weight, scales, bits) <= searched * 1.02  # jagged for 8 bits
    assert squared_error(weight, scales, bits) < squared_error(weight, widest, bits)


def test_mse_weights_on_a_grid_are_kept_exactly() -> None:
    weight = torch.tensor([[3.0, -7.0, 5.0, 1.0]]) * 0.25
    scales = weight_scales(weight, WeightConfig(bits=4, observer=MSE()))
    assert squared_error(weight, scales, 4) == pytest.approx(0.0, abs=1e-10)


@given(seeds, st.integers(2, 8))
def test_a_weight_stays_within_half_a_scale(seed: int, bits: int) -> None:
    weight = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed))
    scales = weight_scales(weight, WeightConfig(bits=bits))
    error = (quantize_weight(weight, scales, bits) * scales[:, None] - weight).abs()
    assert (error <= 0.50001 * scales[:, None]).all()  # 0.5, and the roundings of float32


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    weight = torch.tensor([[1.0, bad]])
    with pytest.raises(PassError, match="the weight holds NaN or infinite values") as e:
        weight_scales(weight, WeightConfig())
    assert "fix: repair the checkpoint" in e.value.full_text
    with pytest.raises(PassError, match="the weight holds NaN or infinite values"):
        quantize_weight(weight, torch.ones(1), 8)


# --- biases and multipliers -----------------------------------------------------------------------


@given(seeds, scale_values, st.booleans())
def test_floored_scales_fit_every_bias_and_are_never_lower(
    seed: int, input_scale: float, per_channel: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scales = 10.0 ** torch.empty(6 if per_channel else 1).uniform_(-12, 0, generator=generator)
    bias = torch.randn(6, generator=generator) * 100
    floored = floor_scales_for_bias(scales, bias, input_scale)
    assert floored.dtype == torch.float32
    assert floored.shape == scales.shape
    assert (floored >= scales).all()
    assert quantize_bias(bias, input_scale, floored).abs().max() <= 2**30


def test_scales_that_are_large_enough_are_left_alone() -> None:
    scales = torch.tensor([0.01, 0.02])
    assert torch.equal(floor_scales_for_bias(scales, torch.tensor([3.0, -4.0]), 0.1), scales)


def test_scales_are_raised_no_further_than_biases_need() -> None:
    bias = torch.tensor([0.25, -0.5])
    assert floor_scales_for_bias(torch.tensor([2.0**-40]), bias, 1.0).tolist() == [2.0**-31]
    each = floor_scales_for_bias(torch.tensor([2.0**-40, 2.0**-30]), bias, 1.0)
    assert each.tolist() == [2.0**-32, 2.0**-30]
    assert floor_scales_for_bias(torch.ones(1), torch.zeros(0), 1.0).tolist() == [1.0]


def test_a_channel_of_zero_weights_keeps_its_bias_to_float32() -> None:
    bias = torch.tensor([0.3, -1e-5, 0.0, 7e8])
    scales = weight_scales(torch.zeros(4, 9), WeightConfig())
    scales = floor_scales_for_bias(scales, bias, 0.017)
    restored = quantize_bias(bias, 0.017, scales).double() * 0.017 * scales.double()
    assert torch.equal(restored.float(), bias)
    assert scales[2] == 1.0


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_bias_beyond_every_scale_is_refused(per_channel: bool) -> None:
    scales, bias = torch.ones(2 if per_channel else 1), torch.tensor([1.0, 3e38])
    with pytest.raises(
        OverflowProofError,
        match=r"the bias 3e\+38 does not fit int32 at input scale 1\.17549e-38",
    ):
        floor_scales_for_bias(scales, bias, SMALLEST_SCALE)


def test_biases_are_rounded_at_the_scale_of_the_accumulator() -> None:
    q = quantize_bias(torch.tensor([1.0, -0.3, 0.5]), 0.5, torch.tensor([0.25, 0.1, 1.0]))
    assert q.dtype == torch.int32
    assert q.tolist() == [8, -6, 1]
    assert quantize_bias(torch.tensor([1.0, -3.0]), 0.5, torch.tensor([4.0])).tolist() == [0, -2]


def test_a_bias_outside_int32_is_refused() -> None:
    with pytest.raises(
        OverflowProofError, match=r"the bias of channel 1 becomes -3e\+09, outside int32"
    ):
        quantize_bias(torch.tensor([1.0, -3e9]), 1.0, torch.ones(1))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_biases_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(PassError, match="the bias holds NaN or infinite values"):
        floor_scales_for_bias(torch.ones(1), torch.tensor([bad]), 1.0)
    with pytest.raises(PassError, match="the bias holds NaN or infinite values"):
        quantize_bias(torch.tensor([bad]), 1.0, torch.ones(1))


def test_multipliers_are_rounded_once() -> None:
    weight_scale = torch.rand(1000) * 0.01
    multiplier = requant_multiplier(0.0173, weight_scale, 0.0219)
    expected = [np.float32(0.0173 * float(s) / 0.0219) for s in weight_scale]
    assert multiplier.dtype == torch.float32
    assert multiplier.tolist() == [float(m) for m in expected]


def test_multipliers_below_the_normal_range_are_zero() -> None:
    tiny = requant_multiplier(2.0**-100, torch.tensor([2.0**-26, 2.0**-27]), 1.0)
    assert tiny.tolist() == [2.0**-126, 0.0]


def test_a_multiplier_beyond_float32_is_refused() -> None:
    with pytest.raises(
        OverflowProofError,
        match=r"the requantization multiplier 1\.26765e\+40 does not fit float32",
    ):
        requant_multiplier(1e10, torch.tensor([1.0, 2.0**100]), 1.0)


# --- accumulators ---------------------------------------------------------------------------------


@given(seeds, st.sampled_from([(0, 255), (-128, 127), (0, 15)]), st.floats(0.0, 1.0))
def test_accumulator_bounds_are_attained_and_never_exceeded(
    seed: int, ends: tuple[int, int], where: float
) -> None:
    lo, hi = ends
    zero_point = round(lo + where * (hi - lo))
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-127, 128, (3, 2, 2, 2), generator=generator).to(torch.int8)
    bias = torch.randint(-(2**30), 2**30, (3,), generator=generator).to(torch.int32)
    least, greatest = accumulator_bounds(weight, bias, zero_point, lo, hi)
    flat, start = weight.long().flatten(1), bias.long()

    x = torch.randint(lo, hi + 1, (200, 8), generator=generator)
    x[::3] = zero_point  # padding
    sums = start + (x - zero_point) @ flat.T
    assert (sums >= least).all()
    assert (sums <= greatest).all()
    for channel in range(3):
        worst = torch.where(flat[channel] > 0, hi, lo) - zero_point
        best = torch.where(flat[channel] > 0, lo, hi) - zero_point
        assert start[channel] + worst @ flat[channel] == greatest[channel]
        assert start[channel] + best @ flat[channel] == least[channel]


def test_accumulator_bounds_match_brute_force_on_every_input() -> None:
    weight = torch.tensor([[3, -2, 0], [-1, -1, 5]], dtype=torch.int8)
    bias = torch.tensor([10, -7], dtype=torch.int32)
    inputs = torch.tensor(list(itertools.product(range(4), repeat=3)))
    sums = bias.long() + (inputs - 1) @ weight.long().T
    least, greatest = accumulator_bounds(weight, bias, 1, 0, 3)
    assert torch.equal(least, sums.amin(0))
    assert torch.equal(greatest, sums.amax(0))


def test_accumulator_bounds_are_exact_beyond_int32() -> None:
    weight = torch.full((1, 200_000), 127, dtype=torch.int8)
    bias = torch.tensor([2**31 - 1], dtype=torch.int32)
    _, greatest = accumulator_bounds(weight, bias, 0, 0, 255)
    assert greatest.dtype == torch.int64
    assert greatest.item() == 200_000 * 127 * 255 + 2**31 - 1


# --- additions ------------------------------------------------------------------------------------


@given(scale_values, scale_values, scale_values, seeds)
def test_an_addition_is_right_to_the_stated_error(
    a_scale: float, b_scale: float, output_scale: float, seed: int
) -> None:
    ratios = a_scale / output_scale, b_scale / output_scale
    a_multiplier, b_multiplier, shift = add_multipliers((a_scale, b_scale), output_scale)
    assert 0 <= a_multiplier <= 32767
    assert 0 <= b_multiplier <= 32767
    assert 0 <= shift <= 22
    if max(ratios) > 32767:
        return
    a, b = np.random.default_rng(seed).integers(-255, 256, (2, 1000))
    half = 1 << (shift - 1) if shift else 0
    total = a * a_multiplier + b * b_multiplier + half
    assert abs(total).max() < 2**31
    error = (total >> shift) - (a * ratios[0] + b * ratios[1])
    assert abs(error).max() <= 0.5 + 255 / 2**shift + 1e-6


@given(scale_values, scale_values, scale_values)
def test_no_larger_shift_would_fit(a_scale: float, b_scale: float, output_scale: float) -> None:
    _, _, shift = add_multipliers((a_scale, b_scale), output_scale)
    largest = max(a_scale, b_scale) / output_scale
    assert shift == 22 or round(largest * 2.0 ** (shift + 1)) > 32767


def test_the_worst_sum_of_an_addition_fits_int32() -> None:
    assert 2 * 255 * 32767 + 2**21 < 2**31


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ((1.0, 1.0), (16384, 16384, 14)),
        ((0.5, 0.25), (16384, 8192, 15)),
        ((1e-9, 1e-9), (0, 0, 22)),
        ((32767.0, 1.0), (32767, 1, 0)),
        ((1e6, 1.0), (32767, 1, 0)),
        ((1.0, 1e38), (1, 32767, 0)),
    ],
)
def test_multipliers_of_additions(
    scales: tuple[float, float], expected: tuple[int, int, int]
) -> None:
    assert add_multipliers(scales, 1.0) == expected


def test_an_addition_with_equal_scales_is_exact() -> None:
    a_multiplier, b_multiplier, shift = add_multipliers((0.1, 0.1), 0.1)
    a = torch.arange(256).to(torch.uint8)[:, None]
    b = torch.arange(256).to(torch.uint8)[None, :]
    result = qpc_ops.add(a, b, 10, 20, a_multiplier, b_multiplier, shift, 30, 0, 255)
    assert torch.equal(result.long(), (a.long() + b.long()).clamp(0, 255))


# --- tables ---------------------------------------------------------------------------------------

UNSIGNED = QParams.from_range(-1.7, 3.1, Grid(8), symmetric=False)
SIGNED = QParams.from_range(-2.0, 2.0, Grid(8, signed=True), symmetric=True)


@pytest.mark.parametrize("qparams", [UNSIGNED, SIGNED], ids=["uint8", "int8"])
def test_the_identity_table_is_the_identity(qparams: QParams) -> None:
    table = requant_table(qparams, qparams)
    q = torch.arange(qparams.lo, qparams.hi + 1).to(qparams.dtype)
    assert table.dtype == qparams.dtype
    assert torch.equal(qpc_ops.lookup(q, table), q)


@pytest.mark.parametrize("output", [UNSIGNED, SIGNED], ids=["to uint8", "to int8"])
@pytest.mark.parametrize("source", [UNSIGNED, SIGNED], ids=["uint8", "int8"])
def test_a_table_is_the_function_on_real_numbers(source: QParams, output: QParams) -> None:
    q = torch.arange(source.lo, source.hi + 1).to(source.dtype)
    table = lookup_table(torch.nn.functional.silu, source, output)
    expected = output.quantize(torch.nn.functional.silu(source.dequantize(q)))
    assert table.shape == (256,)
    assert table.dtype == output.dtype
    assert torch.equal(table[q.long() - torch.iinfo(source.dtype).min], expected)


def test_a_table_between_grids_moves_values_to_half_a_step() -> None:
    table = requant_table(SIGNED, UNSIGNED)
    real = SIGNED.dequantize(torch.arange(-128, 128))
    inside = (real >= UNSIGNED.real_range[0]) & (real <= UNSIGNED.real_range[1])
    error = (UNSIGNED.dequantize(table) - real).abs()[inside]
    assert error.max() <= 0.501 * UNSIGNED.scale  # 0.5, and the roundings of float32


def test_tables_of_narrow_grids_still_have_256_entries() -> None:
    narrow = QParams.from_range(0.0, 1.0, Grid(4), symmetric=False)
    table = requant_table(narrow, narrow)
    assert table.tolist() == [*range(16), *[15] * 240]


def test_nan_in_a_table_becomes_the_lowest_point() -> None:
    table = lookup_table(torch.log, SIGNED, UNSIGNED)
    assert table[:128].unique().tolist() == [0]


def test_a_table_needs_a_pointwise_function_in_float32() -> None:
    with pytest.raises(
        ValueError, match=r"from float32\[256\] to float32\[256\], got torch\.float32 \[\]"
    ):
        lookup_table(torch.sum, SIGNED, UNSIGNED)
    with pytest.raises(ValueError, match=r"got torch\.float64 \[256\]"):
        lookup_table(torch.Tensor.double, SIGNED, UNSIGNED)
