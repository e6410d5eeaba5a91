"""The integer operators against a second definition, written in numpy with Python integers."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from qpc.calls import qpc_ops
from qpc.errors import OverflowProofError, PassError
from qpc.quant.arithmetic import MOST_SUMMED, average_multiplier, reciprocal, requantize, wrap_int32

Array = NDArray[Any]

bytes_ = st.integers(0, 255)
int32s = st.integers(-(2**31), 2**31 - 1)
multipliers = st.floats(2**-30, 2**10, width=32)


def round_half_even(value: Fraction) -> int:
    return round(value)  # Python rounds fractions half to even


def expected_requantize(acc: int, multiplier: np.float32, zero: int, lo: int, hi: int) -> int:
    product_ = np.float32(acc) * multiplier
    if not np.isfinite(product_):
        return hi if product_ > 0 else lo
    return min(max(round_half_even(Fraction(float(product_))) + zero, lo), hi)


def requantized(
    acc: Array, multiplier: Array | np.float32, zero: int, lo: int, hi: int, dtype: Any = np.uint8
) -> Array:
    flat = [
        expected_requantize(int(a), np.float32(m), zero, lo, hi)
        for a, m in zip(acc.flat, np.broadcast_to(multiplier, acc.shape).flat, strict=True)
    ]
    return np.array(flat).reshape(acc.shape).astype(dtype)


def random_bytes(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def equal(actual: Tensor, expected: Array) -> bool:
    return actual.numpy().dtype == expected.dtype and np.array_equal(actual.numpy(), expected)


# --- requantization -------------------------------------------------------------------------------


@given(acc=int32s, multiplier=multipliers, zero=bytes_)
def test_requantize_is_one_float_product_rounded_half_to_even(
    acc: int, multiplier: float, zero: int
) -> None:
    got = requantize(torch.tensor(acc), multiplier, zero, 0, 255, torch.uint8)
    with np.errstate(over="ignore"):
        assert int(got) == expected_requantize(acc, np.float32(multiplier), zero, 0, 255)


@given(acc=int32s, multiplier=multipliers, zero=bytes_, ends=st.tuples(bytes_, bytes_))
def test_requantize_stays_between_its_ends(
    acc: int, multiplier: float, zero: int, ends: tuple[int, int]
) -> None:
    lo, hi = sorted(ends)
    got = int(requantize(torch.tensor(acc), multiplier, zero, lo, hi, torch.uint8))
    wide = int(requantize(torch.tensor(acc), multiplier, zero, 0, 255, torch.uint8))
    assert got == min(max(wide, lo), hi)


@given(a=int32s, b=int32s, multiplier=multipliers)
def test_requantize_is_monotonic(a: int, b: int, multiplier: float) -> None:
    low, high = requantize(torch.tensor(sorted([a, b])), multiplier, 7, 0, 255, torch.uint8)
    assert int(low) <= int(high)


@given(acc=int32s, multiplier=multipliers, zero=bytes_)
def test_signed_results_are_unsigned_ones_less_128(acc: int, multiplier: float, zero: int) -> None:
    value = torch.tensor(acc)
    unsigned = int(requantize(value, multiplier, zero, 0, 255, torch.uint8))
    signed = int(requantize(value, multiplier, zero - 128, -128, 127, torch.int8))
    assert signed == unsigned - 128


@pytest.mark.parametrize(("acc", "result"), [(1, 10), (3, 12), (5, 12), (-1, 10), (-3, 8)])
def test_ties_go_to_the_even_neighbour(acc: int, result: int) -> None:
    assert int(requantize(torch.tensor(acc), 0.5, 10, 0, 255, torch.uint8)) == result


@given(st.integers(-(2**52), 2**52))
def test_sums_wrap_as_in_hardware(value: int) -> None:
    expected = (value + 2**31) % 2**32 - 2**31
    assert int(wrap_int32(torch.tensor(value))) == expected
    assert int(wrap_int32(torch.tensor(value, dtype=torch.float64))) == expected


def test_the_reciprocal_of_a_scale_is_rounded_once() -> None:
    assert reciprocal(0.1) == float(np.float32(10.0))
    assert reciprocal(3.0) == float(np.float32(1 / 3))


# --- borders --------------------------------------------------------------------------------------


@given(
    x=st.floats(width=32, allow_nan=False),
    scale=st.floats(2**-20, 2**20, width=32),
    zero=bytes_,
)
def test_quantize_multiplies_by_the_rounded_reciprocal(x: float, scale: float, zero: int) -> None:
    got = qpc_ops.quantize(torch.tensor([x]), scale, zero, 0, 255, torch.uint8)
    with np.errstate(over="ignore"):
        real = np.float32(x) * np.float32(1.0 / scale)
    if np.isinf(real):
        expected = 255 if real > 0 else 0
    else:
        expected = min(max(round_half_even(Fraction(float(real))) + zero, 0), 255)
    assert got.tolist() == [expected]


def test_quantize_sends_nan_to_the_lowest_point_and_infinity_to_the_ends() -> None:
    x = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert qpc_ops.quantize(x, 0.1, 7, 2, 9, torch.uint8).tolist() == [2, 9, 2]
    assert qpc_ops.quantize(x, 0.1, -7, -20, 9, torch.int8).tolist() == [-20, 9, -20]


@given(q=st.lists(bytes_, min_size=1), scale=st.floats(2**-20, 2**20, width=32), zero=bytes_)
def test_dequantize_is_one_float_product(q: list[int], scale: float, zero: int) -> None:
    got = qpc_ops.dequantize(torch.tensor(q, dtype=torch.uint8), scale, zero)
    expected = np.array([v - zero for v in q]).astype(np.float32) * np.float32(scale)
    assert equal(got, expected)


@given(q=st.lists(bytes_, min_size=1), scale=st.floats(2**-20, 2**20, width=32), zero=bytes_)
def test_quantize_undoes_dequantize(q: list[int], scale: float, zero: int) -> None:
    integers = torch.tensor(q, dtype=torch.uint8)
    real = qpc_ops.dequantize(integers, scale, zero)
    assert torch.equal(qpc_ops.quantize(real, scale, zero, 0, 255, torch.uint8), integers)


# --- layers ---------------------------------------------------------------------------------------


def expected_conv2d(
    q: Array,
    weight: Array,
    bias: Array,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    zero: int,
) -> Array:
    """The accumulators, by definition."""
    (n, _, height, width), (out, per_group, kh, kw) = q.shape, weight.shape
    rows = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    result = np.zeros((n, out, rows, columns), np.int64)
    for b, o, y, x in product(range(n), range(out), range(rows), range(columns)):
        total = int(bias[o])
        first = o // (out // groups) * per_group
        for i, ky, kx in product(range(per_group), range(kh), range(kw)):
            row = y * stride[0] - padding[0] + ky * dilation[0]
            column = x * stride[1] - padding[1] + kx * dilation[1]
            if 0 <= row < height and 0 <= column < width:
                value = int(q[b, first + i, row, column]) - zero
                total += value * int(weight[o, i, ky, kx])
        result[b, o, y, x] = total
    return result


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [
        ((1, 1), (0, 0), (1, 1), 1),
        ((2, 1), (1, 2), (1, 1), 1),
        ((1, 1), (2, 1), (2, 1), 2),
        ((1, 2), (1, 1), (1, 2), 4),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_conv2d_sums_products_and_pads_with_the_zero_point(
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    signed: bool,
) -> None:
    q = random_bytes(2, 4, 6, 5)
    weight = torch.randint(-127, 128, (8, 4 // groups, 3, 2), dtype=torch.int8)
    bias = torch.randint(-9999, 9999, (8,), dtype=torch.int32)
    multiplier = (0.5 + torch.rand(8)) * 4e-3
    acc = expected_conv2d(
        q.numpy(), weight.numpy(), bias.numpy(), stride, padding, dilation, groups, 100
    )
    expected = requantized(acc, multiplier.numpy()[:, None, None], 90, 10, 240)
    assert len(np.unique(expected)) > 50
    shift = 128 if signed else 0
    if signed:
        q = (q.to(torch.int16) - 128).to(torch.int8)
    window = (list(stride), list(padding), list(dilation), groups)
    ends = (100 - shift, 90 - shift, 10 - shift, 240 - shift)
    got = qpc_ops.conv2d(q, weight, bias, multiplier, *window, *ends)
    assert got.dtype == q.dtype
    assert np.array_equal(got.numpy().astype(int) + shift, expected)


def expected_conv_transpose2d(
    q: Array,
    weight: Array,
    bias: Array,
    stride: tuple[int, int],
    padding: tuple[int, int],
    output_padding: tuple[int, int],
    groups: int,
    dilation: tuple[int, int],
    zero: int,
) -> Array:
    """The accumulators, by definition: every input adds a scaled kernel to the output."""
    (n, inputs, height, width), (_, per_group, kh, kw) = q.shape, weight.shape
    rows, columns = (
        (size - 1) * s - 2 * p + d * (k - 1) + o + 1
        for size, s, p, d, k, o in zip(
            (height, width), stride, padding, dilation, (kh, kw), output_padding, strict=True
        )
    )
    result = np.tile(bias.astype(np.int64)[None, :, None, None], (n, 1, rows, columns))
    indices = (range(n), range(inputs), range(height), range(width), range(kh), range(kw))
    for b, i, y, x, ky, kx in product(*indices):
        row = y * stride[0] - padding[0] + ky * dilation[0]
        column = x * stride[1] - padding[1] + kx * dilation[1]
        if 0 <= row < rows and 0 <= column < columns:
            first = i // (inputs // groups) * per_group
            value = int(q[b, i, y, x]) - zero
            taps = weight[i, :, ky, kx].astype(np.int64)
            result[b, first : first + per_group, row, column] += value * taps
    return result


@pytest.mark.parametrize(
    ("stride", "padding", "output_padding", "groups", "dilation"),
    [
        ((1, 1), (0, 0), (0, 0), 1, (1, 1)),
        ((2, 2), (1, 0), (1, 0), 1, (1, 1)),
        ((3, 2), (0, 1), (2, 1), 2, (1, 1)),
        ((2, 1), (1, 1), (0, 0), 4, (1, 2)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_conv_transpose2d_spreads_every_input_over_the_output(
    stride: tuple[int, int],
    padding: tuple[int, int],
    output_padding: tuple[int, int],
    groups: int,
    dilation: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    shift = 128 if dtype is torch.int8 else 0
    q = random_bytes(2, 4, 4, 3)
    weight = torch.randint(-127, 128, (4, 8 // groups, 3, 2), dtype=torch.int8)
    bias = torch.randint(-9999, 9999, (8,), dtype=torch.int32)
    multiplier = (0.5 + torch.rand(8)) * 4e-3
    window = (stride, padding, output_padding, groups, dilation)
    acc = expected_conv_transpose2d(q.numpy(), weight.numpy(), bias.numpy(), *window, 100)
    expected = requantized(acc, multiplier.numpy()[:, None, None], 90, 10, 240)
    assert len(np.unique(expected)) > 50
    lists = [list(w) if isinstance(w, tuple) else w for w in window]
    ends = (100 - shift, 90 - shift, 10 - shift, 240 - shift)
    q = (q.to(torch.int16) - shift).to(dtype)
    got = qpc_ops.conv_transpose2d(q, weight, bias, multiplier, *lists, *ends)
    assert got.dtype == dtype
    assert np.array_equal(got.numpy().astype(int) + shift, expected)


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (7,)])
def test_linear_sums_products_over_the_last_axis(shape: tuple[int, ...]) -> None:
    q = random_bytes(*shape)
    weight = torch.randint(-127, 128, (4, 7), dtype=torch.int8)
    bias = torch.randint(-9999, 9999, (4,), dtype=torch.int32)
    multiplier = torch.rand(4) * 5e-3
    centred = q.numpy().astype(np.int64) - 60
    acc = centred @ weight.numpy().astype(np.int64).T + bias.numpy()
    got = qpc_ops.linear(q, weight, bias, multiplier, 60, 128, 0, 255)
    assert equal(got, requantized(acc, multiplier.numpy(), 128, 0, 255))


def test_the_accumulator_wraps_at_32_bits() -> None:
    q = torch.full((1, 2), 255, dtype=torch.uint8)
    weight = torch.full((1, 2), 127, dtype=torch.int8)
    bias = torch.tensor([2**31 - 1], dtype=torch.int32)
    got = qpc_ops.linear(q, weight, bias, torch.tensor([1e-8]), 0, 100, 0, 255)
    assert got.tolist() == [[100 - 21]]  # 2**31 - 1 + 64770 wraps to about -2**31


# --- pointwise operators --------------------------------------------------------------------------

ADD = st.tuples(st.integers(0, 32767), st.integers(0, 32767), st.integers(0, 22))


@given(a=bytes_, b=bytes_, za=bytes_, zb=bytes_, zo=bytes_, numbers=ADD)
def test_add_is_exact_integer_arithmetic(
    a: int, b: int, za: int, zb: int, zo: int, numbers: tuple[int, int, int]
) -> None:
    ma, mb, shift = numbers
    total = (a - za) * ma + (b - zb) * mb + ((1 << (shift - 1)) if shift else 0)
    expected = min(max(total // 2**shift + zo, 0), 255)
    got = qpc_ops.add(*_pair(a, b), za, zb, ma, mb, shift, zo, 0, 255)
    assert got.tolist() == [expected]


@given(a=bytes_, b=bytes_, za=bytes_, zb=bytes_, zo=bytes_, numbers=ADD)
def test_add_is_commutative(
    a: int, b: int, za: int, zb: int, zo: int, numbers: tuple[int, int, int]
) -> None:
    ma, mb, shift = numbers
    x, y = _pair(a, b)
    assert torch.equal(
        qpc_ops.add(x, y, za, zb, ma, mb, shift, zo, 0, 255),
        qpc_ops.add(y, x, zb, za, mb, ma, shift, zo, 0, 255),
    )


@given(a=bytes_, za=bytes_, zb=bytes_, shift=st.integers(0, 14))
def test_adding_zero_on_the_same_grid_changes_nothing(a: int, za: int, zb: int, shift: int) -> None:
    got = qpc_ops.add(*_pair(a, zb), za, zb, 1 << shift, 77, shift, za, 0, 255)
    assert got.tolist() == [a]


@given(a=bytes_, b=bytes_, za=bytes_, zb=bytes_, zo=bytes_, multiplier=multipliers)
def test_mul_requantizes_the_exact_product(
    a: int, b: int, za: int, zb: int, zo: int, multiplier: float
) -> None:
    got = qpc_ops.mul(*_pair(a, b), za, zb, multiplier, zo, 0, 255)
    expected = expected_requantize((a - za) * (b - zb), np.float32(multiplier), zo, 0, 255)
    assert got.tolist() == [expected]
    assert torch.equal(got, qpc_ops.mul(*_pair(b, a), zb, za, multiplier, zo, 0, 255))


def test_add_and_mul_broadcast() -> None:
    a, b = random_bytes(2, 3, 4, 5), random_bytes(3, 1, 1, seed=1)
    wide = b.expand(2, 3, 4, 5)
    numbers = (10, 200, 3000, 5000, 13, 128, 0, 255)
    assert torch.equal(qpc_ops.add(a, b, *numbers), qpc_ops.add(a, wide, *numbers))
    rest = (10, 200, 0.01, 128, 0, 255)
    assert torch.equal(qpc_ops.mul(a, b, *rest), qpc_ops.mul(a, wide, *rest))


def _pair(a: int, b: int) -> tuple[Tensor, Tensor]:
    return torch.tensor([a], dtype=torch.uint8), torch.tensor([b], dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_resize2d_weighs_four_pixels_and_rounds_once(dtype: torch.dtype) -> None:
    q = random_bytes(2, 3, 4, 5)
    places = [torch.tensor(p, dtype=torch.int32) for p in ([0, 700, 3 * 2048], [4095, 8192])]
    expected = np.zeros((2, 3, 3, 2), np.int64)
    for b, c, i, j in np.ndindex(expected.shape):
        y, x = (Fraction(int(p[k]), 2048) for p, k in zip(places, (i, j), strict=True))
        total = Fraction(1, 2)
        for row, column in product(range(4), range(5)):
            near = [max(Fraction(0), 1 - abs(d)) for d in (y - row, x - column)]
            total += near[0] * near[1] * int(q[b, c, row, column])
        expected[b, c, i, j] = int(total // 1)
    shift = 128 if dtype is torch.int8 else 0
    got = qpc_ops.resize2d((q.to(torch.int16) - shift).to(dtype), *places, [4, 5])
    assert got.dtype == dtype
    assert np.array_equal(got.numpy().astype(int) + shift, expected)


@given(places=st.lists(st.integers(0, 3 * 2048), min_size=1), value=bytes_)
def test_resize2d_keeps_what_is_constant(places: list[int], value: int) -> None:
    at = torch.tensor(places, dtype=torch.int32)
    got = qpc_ops.resize2d(torch.full((1, 1, 4, 4), value, dtype=torch.uint8), at, at, [4, 4])
    assert bool((got == value).all())


def test_resize2d_refuses_images_of_another_size() -> None:
    at = torch.tensor([0, 700], dtype=torch.int32)
    with pytest.raises(
        PassError, match=r"of the sizes \(N, any, 4, 5\), not of \(1, 1, 8, 5\)"
    ) as e:
        qpc_ops.resize2d(random_bytes(1, 1, 8, 5), at, at, [4, 5])
    assert e.value.fix == "trace and quantize the model at the size at which it is used"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_lookup_indexes_from_the_lowest_value_of_the_dtype(dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    q = torch.arange(limits.min, limits.max + 1).to(dtype)
    table = torch.randperm(256).to(torch.uint8)
    assert torch.equal(qpc_ops.lookup(q, table), table)


@given(st.lists(bytes_, min_size=1), st.tuples(bytes_, bytes_))
def test_clamp_clamps(q: list[int], ends: tuple[int, int]) -> None:
    lo, hi = sorted(ends)
    got = qpc_ops.clamp(torch.tensor(q, dtype=torch.uint8), lo, hi)
    assert got.tolist() == [min(max(v, lo), hi) for v in q]


# --- pooling and means ----------------------------------------------------------------------------


def windows(
    q: Array, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], fill: int
) -> Array:
    """[n, c, rows, columns, kh, kw]."""
    (ph, pw), (sh, sw) = padding, stride
    padded = np.pad(q, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(padded, kernel, (2, 3))
    return views[:, :, ::sh, ::sw]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_max_pool2d_takes_the_greatest_and_padding_never_wins(dtype: torch.dtype) -> None:
    q = random_bytes(2, 3, 7, 6).view(dtype)
    got = qpc_ops.max_pool2d(q, [3, 2], [2, 1], [1, 1], [1, 1], False)
    lowest = int(torch.iinfo(dtype).min)
    expected = windows(q.numpy(), (3, 2), (2, 1), (1, 1), lowest).max((-1, -2))
    assert equal(got, expected)


def test_max_pool2d_rounds_up_and_dilates_like_torch() -> None:
    q = random_bytes(1, 2, 8, 9)
    got = qpc_ops.max_pool2d(q, [2, 3], [3, 2], [1, 1], [2, 1], True)
    real = torch.nn.functional.max_pool2d(q.float(), (2, 3), (3, 2), (1, 1), (2, 1), ceil_mode=True)
    assert torch.equal(got.float(), real)


def test_avg_pool2d_requantizes_the_sum_and_padding_counts_as_zero() -> None:
    q = random_bytes(2, 3, 7, 6)
    got = qpc_ops.avg_pool2d(q, [3, 2], [2, 1], [1, 1], 50, 0.3, 20, 5, 250)
    sums = windows(q.numpy().astype(np.int64) - 50, (3, 2), (2, 1), (1, 1), 0).sum((-1, -2))
    assert equal(got, requantized(sums, np.float32(0.3), 20, 5, 250))


@pytest.mark.parametrize(
    ("dims", "keepdim"), [([2, 3], True), ([2, 3], False), ([-1], False), ([1, -2], True)]
)
def test_mean_requantizes_the_sum(dims: list[int], keepdim: bool) -> None:
    q = random_bytes(2, 3, 4, 5)
    got = qpc_ops.sum(q, dims, keepdim, 50, 0.06, 20, 5, 250)
    sums = (q.numpy().astype(np.int64) - 50).sum(tuple(dims), keepdims=keepdim)
    assert equal(got, requantized(sums, np.float32(0.06), 20, 5, 250))


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 4),
    dims=st.sampled_from([[2, 3], [-1], [1, -2], []]),
    scales=st.tuples(*[st.floats(2**-20, 2**20, width=32)] * 2),
)
def test_mean_is_a_sum_divided_by_the_count_of_what_is_there(
    shape: tuple[int, ...], dims: list[int], scales: tuple[float, float]
) -> None:
    q = random_bytes(*shape)
    count = np.prod([shape[d] for d in dims or range(4)])
    factor = np.float32(Fraction(scales[0]) / (Fraction(scales[1]) * int(count)))
    got = qpc_ops.mean(q, dims, True, 50, *scales, 20, 5, 250)
    assert torch.equal(got, qpc_ops.sum(q, dims, True, 50, float(factor), 20, 5, 250))


def test_the_largest_sums_fit_and_larger_ones_are_refused() -> None:
    """All bytes 255 and the zero point 0: the accumulator is 2**31 - 128."""
    q = torch.full((MOST_SUMMED,), 255, dtype=torch.uint8)
    assert qpc_ops.sum(q, [0], True, 0, 2.0**-24, 0, 0, 255).tolist() == [128]
    assert qpc_ops.mean(q, [0], True, 0, 1.0, 1.0, 0, 0, 255).tolist() == [255]
    more = q.new_empty(1).expand(MOST_SUMMED + 1)
    with pytest.raises(OverflowProofError, match="a sum of 8421505 integers may not fit 32 bits"):
        qpc_ops.mean(more, [0], True, 0, 1.0, 1.0, 0, 0, 255)
    with pytest.raises(OverflowProofError, match="a sum of 9000000 integers may not fit 32 bits"):
        qpc_ops.avg_pool2d(
            q.new_empty(1).expand(1, 1, 3000, 3000), [3000, 3000], [1, 1], [0, 0], 0, 1.0, 0, 0, 255
        )


def test_a_factor_beyond_float32_is_refused() -> None:
    with pytest.raises(OverflowProofError, match=r"multiplier 5.65.*e.73 does not fit float32"):
        average_multiplier(2.0**119, 2.0**-126, 1)


# --- observers and fake quantization --------------------------------------------------------------


def test_observe_returns_a_copy() -> None:
    x = torch.randn(3)
    y = qpc_ops.observe(x, "observers.x")
    assert torch.equal(x, y)
    assert y.data_ptr() != x.data_ptr()


@given(x=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1), zero=bytes_)
def test_fake_quantize_is_quantize_and_dequantize(x: list[float], zero: int) -> None:
    real, scale = torch.tensor(x), float(np.float32(0.37))
    fake = qpc_ops.fake_quantize(real, torch.tensor([scale]), torch.tensor([zero]), 0, 255)
    integer = qpc_ops.quantize(real, scale, zero, 0, 255, torch.uint8)
    assert torch.equal(fake, qpc_ops.dequantize(integer, scale, zero))


@pytest.mark.parametrize("axis", [0, 1])
def test_fake_quantize_has_a_scale_for_each_index_of_an_axis(axis: int) -> None:
    x, scales = torch.randn(3, 3), torch.tensor([0.5, 0.25, 0.125])
    zeros = torch.zeros(3, dtype=torch.int64)
    got = qpc_ops.fake_quantize(x, scales, zeros, -127, 127, axis)
    for index in range(3):
        one = qpc_ops.fake_quantize(
            x.select(axis, index), scales[index : index + 1], zeros[:1], -127, 127
        )
        assert torch.equal(got.select(axis, index), one)


def test_fake_quantize_has_a_scale_for_each_group_and_index_of_an_axis() -> None:
    x, scales = torch.randn(4, 3, 2), torch.tensor([0.5, 0.25, 0.125, 1.0, 2.0, 0.75])
    zeros = torch.zeros(6, dtype=torch.int64)
    got = qpc_ops.fake_quantize(x, scales, zeros, -127, 127, 1, 2)
    for group in range(2):
        rows = slice(2 * group, 2 * group + 2)
        part = scales[3 * group : 3 * group + 3]
        one = qpc_ops.fake_quantize(x[rows], part, zeros[:3], -127, 127, 1)
        assert torch.equal(got[rows], one)


# --- shapes without data --------------------------------------------------------------------------


def _conv_arguments(x: Tensor) -> tuple[Any, ...]:
    out = torch.zeros(6, dtype=torch.int32)
    weight = torch.zeros(6, 2, 3, 2, dtype=torch.int8)
    return (x, weight, out, torch.zeros(6), [2, 1], [1, 2], [1, 2], 2, 0, 0, 0, 255)


def _conv_transpose_arguments(x: Tensor) -> tuple[Any, ...]:
    out = torch.zeros(6, dtype=torch.int32)
    weight = torch.zeros(4, 3, 3, 2, dtype=torch.int8)
    return (x, weight, out, torch.zeros(6), [2, 3], [1, 2], [1, 0], 2, [1, 2], 0, 0, 0, 255)


def _linear_arguments(x: Tensor) -> tuple[Any, ...]:
    out = torch.zeros(6, dtype=torch.int32)
    return (x, torch.zeros(6, 9, dtype=torch.int8), out, torch.zeros(6), 0, 0, 0, 255)


OPERATORS: dict[str, tuple[Any, Callable[[Tensor], tuple[Any, ...]]]] = {
    "quantize": (qpc_ops.quantize, lambda x: (x.float(), 0.1, 0, 0, 255, torch.uint8)),
    "dequantize": (qpc_ops.dequantize, lambda x: (x, 0.1, 0)),
    "conv2d": (qpc_ops.conv2d, _conv_arguments),
    "conv_transpose2d": (qpc_ops.conv_transpose2d, _conv_transpose_arguments),
    "linear": (qpc_ops.linear, _linear_arguments),
    "add": (qpc_ops.add, lambda x: (x, x[:, :1], 0, 0, 1, 1, 0, 0, 0, 255)),
    "add of a larger value": (qpc_ops.add, lambda x: (x[:1], x, 0, 0, 1, 1, 0, 0, 0, 255)),
    "mul": (qpc_ops.mul, lambda x: (x, x[0, 0, 0], 0, 0, 0.1, 0, 0, 255)),
    "max_pool2d": (qpc_ops.max_pool2d, lambda x: (x, [3, 2], [2, 3], [1, 1], [2, 1], True)),
    "avg_pool2d": (
        qpc_ops.avg_pool2d,
        lambda x: (x, [3, 2], [2, 3], [1, 1], 0, 0.1, 0, 0, 255),
    ),
    "sum": (qpc_ops.sum, lambda x: (x, [-1, 1], False, 0, 0.1, 0, 0, 255)),
    "mean": (qpc_ops.mean, lambda x: (x, [-1, 1], False, 0, 0.1, 0.2, 0, 0, 255)),
    "mean that keeps": (qpc_ops.mean, lambda x: (x, [2], True, 0, 0.1, 0.2, 0, 0, 255)),
    "mean of all": (qpc_ops.mean, lambda x: (x, [], False, 0, 0.1, 0.2, 0, 0, 255)),
    "resize2d": (
        qpc_ops.resize2d,
        lambda x: (x, *(torch.zeros(n, dtype=torch.int32) for n in (3, 20)), [8, 9]),
    ),
    "observe": (qpc_ops.observe, lambda x: (x.float(), "name")),
    "fake_quantize": (
        qpc_ops.fake_quantize,
        lambda x: (x.float(), torch.ones(1), torch.zeros(1), 0, 255),
    ),
    "lookup": (qpc_ops.lookup, lambda x: (x, torch.zeros(256, dtype=torch.int8))),
    "clamp": (qpc_ops.clamp, lambda x: (x, 3, 9)),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("batch", [1, 3])
def test_fake_tensors_get_the_types_of_real_ones(name: str, batch: int) -> None:
    operator, arguments = OPERATORS[name]
    real = operator(*arguments(random_bytes(batch, 4, 8, 9)))
    with FakeTensorMode():
        fake = operator(*arguments(torch.empty(batch, 4, 8, 9, dtype=torch.uint8)))
    assert (fake.shape, fake.dtype) == (real.shape, real.dtype)
