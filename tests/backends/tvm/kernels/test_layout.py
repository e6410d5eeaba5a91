from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.isa.choose import Isa
from qpc.backends.tvm.kernels.layout import dequantize, quantize

pytestmark = pytest.mark.tvm

Array = npt.NDArray[Any]
Run = Callable[..., Array]
Shape = tuple[int, ...]

NHWC = (0, 2, 3, 1)
CASES = [
    pytest.param((2, 3, 5, 37), NHWC, id="to nhwc"),
    pytest.param((1, 70, 7, 7), NHWC, id="many channels to nhwc"),
    pytest.param((1, 3, 8, 16), NHWC, id="an image to nhwc"),
    pytest.param((3, 2, 1, 5), NHWC, id="two channels, in images shorter than a vector"),
    pytest.param((1, 4, 16, 8), NHWC, id="four channels"),
    pytest.param((3, 4, 5, 1), NHWC, id="four channels, in images of one column"),
    pytest.param((11, 3, 1, 1), NHWC, id="three channels, in images of one pixel"),
    pytest.param((1, 5, 16, 8), NHWC, id="five channels"),
    pytest.param((2, 3, 5, 37), (0, 1, 2, 3), id="as it is"),
    pytest.param((3, 70), (1, 0), id="transposed"),
    pytest.param((2, 1, 4), (2, 0, 1), id="three axes"),
    pytest.param((5,), (0,), id="one axis"),
    pytest.param((), (), id="no axis"),
]


def exact(x: npt.NDArray[np.float32], scale: float, zero_point: int, lo: int, hi: int) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        product = x * np.float32(1.0 / float(np.float32(scale)))
    product = np.where(np.isnan(product), -np.inf, product)
    product = np.clip(product, lo - zero_point, hi - zero_point)
    result: Array = np.rint(product).astype(np.int64) + zero_point
    return result.astype(np.uint8)


@pytest.mark.parametrize(("shape", "permutation"), CASES)
def test_quantize_equals_the_exact_result(
    isa: Isa, run: Run, shape: Shape, permutation: tuple[int, ...]
) -> None:
    x = np.asarray(np.random.default_rng(0).normal(0, 3, shape), np.float32)
    result = run(quantize(isa, shape, permutation, 0.037, 121, 3, 250), x)
    expected = np.transpose(exact(x, 0.037, 121, 3, 250), permutation)
    np.testing.assert_array_equal(result, expected)


def test_quantize_rounds_half_to_even_and_clamps_what_no_integer_holds(isa: Isa, run: Run) -> None:
    limits = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0, 2.0**31, -(2.0**31)]
    halves = np.arange(-20, 20) + 0.5
    x = np.array([*limits, *halves], np.float32)
    result = run(quantize(isa, x.shape, (0,), 1.0, 10, 2, 200), x)
    np.testing.assert_array_equal(result, exact(x, 1.0, 10, 2, 200))
    assert result[0] == 2
    assert result[len(limits) + 20 : len(limits) + 24].tolist() == [10, 12, 12, 14]


@pytest.mark.parametrize(("shape", "permutation"), CASES)
def test_dequantize_equals_the_exact_result(
    isa: Isa, run: Run, shape: Shape, permutation: tuple[int, ...]
) -> None:
    q = np.random.default_rng(0).integers(0, 256, [shape[axis] for axis in permutation], np.uint8)
    result = run(dequantize(isa, shape, permutation, 0.0371, 121), q)
    values = (q.astype(np.int64) - 121).astype(np.float32) * np.float32(0.0371)
    np.testing.assert_array_equal(result, np.transpose(values, np.argsort(permutation)))


@pytest.mark.parametrize("shape", [(1, 3, 120, 100), (70_001,)])
def test_threads_share_the_work(isa: Isa, run: Run, shape: Shape) -> None:
    permutation = NHWC if len(shape) == 4 else (0,)
    x = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
    q = run(quantize(isa, shape, permutation, 0.037, 121, threads=3), x)
    np.testing.assert_array_equal(q, np.transpose(exact(x, 0.037, 121, 0, 255), permutation))
    values = (q.astype(np.int64) - 121).astype(np.float32) * np.float32(0.037)
    back = run(dequantize(isa, shape, permutation, 0.037, 121, threads=3), q)
    np.testing.assert_array_equal(back, np.transpose(values, np.argsort(permutation)))


def test_equal_shapes_share_their_code(isa: Isa) -> None:
    one = quantize(isa, (2, 3), (1, 0), 0.5, 3)
    two = quantize(isa, (2, 3), (1, 0), 0.25, 7, 1, 9)
    assert one.func is two.func
    assert one.name != quantize(isa, (2, 3), (0, 1), 0.5, 3).name
