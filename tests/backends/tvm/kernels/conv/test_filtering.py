from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.conv.filtering import FILTERINGS, Filtering, Transform
from qpc.runtime.kernel_transform import TAPS

pytestmark = [pytest.mark.tvm, pytest.mark.parametrize("filtering", FILTERINGS.values())]

Array = npt.NDArray[Any]


def both_ways(transform: Transform, patch: Array) -> Array:
    """A transform of the first axis, then of the second."""

    def along_first(lines: Array) -> Array:
        return np.stack(transform(list(lines), lambda value: value))

    return along_first(along_first(patch).swapaxes(0, 1)).swapaxes(0, 1)


def correlated(patch: Array, weight: Array) -> Array:
    """patch[y, x, c] and weight[o, c, 3, 3] -> [y, x, o]."""
    windows = np.lib.stride_tricks.sliding_window_view(patch, (TAPS, TAPS), (0, 1))
    result: Array = np.einsum("yxcij,ocij->yxo", windows, weight.astype(np.int64))
    return result


def filtered(filtering: Filtering, patch: Array, weight: Array, dtype: type) -> Array:
    """The same by minimal filtering, with sums of that type."""
    size = filtering.size
    inputs: Array = both_ways(filtering.inputs, patch.astype(np.int16)).astype(dtype)
    weights: Array = filtering.weights(weight).astype(dtype)
    weights = weights.reshape(size, size, *weight.shape[:2])
    return both_ways(filtering.outputs, np.einsum("yxc,yxoc->yxo", inputs, weights))


@given(data=st.data(), channels=st.integers(1, 5))
def test_outputs_are_those_of_a_convolution_times_the_square_of_the_factor(
    filtering: Filtering, data: st.DataObject, channels: int
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    patch = rng.integers(0, 256, (filtering.size, filtering.size, channels))
    weight = rng.integers(-128, 128, (2, channels, TAPS, TAPS), np.int8)
    expected = correlated(patch, weight) * filtering.factor**2
    np.testing.assert_array_equal(filtered(filtering, patch, weight, np.int64), expected)


def test_sums_may_wrap_around(filtering: Filtering) -> None:
    rng = np.random.default_rng(0)
    patch = rng.integers(0, 256, (filtering.size, filtering.size, 900))
    weight = np.full((1, 900, TAPS, TAPS), 12, np.int8)
    total = filtered(filtering, patch, weight, np.int32).astype(np.uint32)
    if filtering.factor == 24:
        assert filtered(filtering, patch, weight, np.int64).max() > 2**32
    result = (total * np.uint32(filtering.inverse)).astype(np.int32) >> filtering.shift
    np.testing.assert_array_equal(result, correlated(patch, weight))


def test_the_factor_is_a_power_of_two_times_what_the_inverse_undoes(filtering: Filtering) -> None:
    odd = filtering.factor**2 >> filtering.shift
    assert odd % 2 == 1
    assert odd * filtering.inverse % 2**32 == 1


def matrix(transform: Transform, size: int) -> Array:
    """A transform as a matrix."""
    return np.stack(transform(list(np.eye(size, dtype=np.int64)), lambda value: value))


def test_transformed_inputs_and_weights_have_16_bits(filtering: Filtering) -> None:
    rows = matrix(filtering.inputs, filtering.size)
    positive, negative = np.maximum(rows, 0).sum(1), np.maximum(-rows, 0).sum(1)
    # Products of two positive or two negative numbers are positive.
    largest = np.multiply.outer(positive, positive) + np.multiply.outer(negative, negative)
    smallest = 2 * np.multiply.outer(positive, negative)
    assert 255 * max(largest.max(), smallest.max()) < 2**15
    assert 128 * (largest + smallest).max() < 2**15  # the same of int8

    kernel = np.abs(np.array(filtering.kernel_rows)).sum(1)
    assert 128 * np.multiply.outer(kernel, kernel).max() < 2**15


def test_inputs_of_one_dimension_have_16_bits_on_the_way(filtering: Filtering) -> None:
    """Whatever is kept of extreme lines fits, so int16 never wraps around."""
    rng = np.random.default_rng(0)
    kept: list[Array] = []

    def keep(value: Array) -> Array:
        kept.append(value)
        return value

    patch = 255 * rng.integers(0, 2, (filtering.size, filtering.size, 5000))
    for _ in range(2):
        patch = np.stack(filtering.inputs(list(patch), keep)).swapaxes(0, 1)
    assert max((np.abs(value).max() for value in kept), default=0) < 2**15


def test_weights_fit_if_outputs_leave_enough_bits(filtering: Filtering) -> None:
    most = (2 ** (31 - filtering.shift) - 1) // (255 * 100)
    weight = np.zeros((2, most // 9 + 1, TAPS, TAPS), np.int8)
    weight.reshape(2, -1)[1, :most] = 100
    assert filtering.fits(weight)
    assert filtering.fits(-weight)
    weight.reshape(2, -1)[0, : most + 1] = -100
    assert not filtering.fits(weight)
    assert not filtering.fits(-weight)
    assert filtering.fits(np.zeros((0, 3, TAPS, TAPS), np.int8))


def test_weights_fit_signed_inputs_by_their_largest_magnitude(filtering: Filtering) -> None:
    most = (2 ** (31 - filtering.shift) - 1) // (128 * 100)
    weight = np.zeros((1, most // 9 + 1, TAPS, TAPS), np.int8)
    for number in (100, -100):
        weight.reshape(-1)[:most], weight.reshape(-1)[most] = number, 0
        assert filtering.fits(weight, "int8")
        weight.reshape(-1)[most] = number
        assert not filtering.fits(weight, "int8")
