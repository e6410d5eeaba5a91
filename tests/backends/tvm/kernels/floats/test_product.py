"""Products of floats, against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.floats.product import (
    LinearDesc,
    Operand,
    ProductDesc,
    linear,
    product,
)
from qpc.backends.tvm.kernels.isa.base import Isa
from tests.backends.tvm.kernels.conftest import NOT_PLAIN

pytestmark = [pytest.mark.tvm, pytest.mark.parametrize("target", NOT_PLAIN, indirect=True)]

Array = npt.NDArray[Any]
Run = Callable[..., Array]


def _random(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _assert_rounded_once_a_term(got: Array, a: Array, b: Array, bias: Array | int = 0) -> None:
    """The error is at most half a unit of a partial sum for each product and each sum."""
    terms = np.abs(a.astype(np.float64)) @ np.abs(b) + np.abs(bias)
    error = np.abs(got - (a.astype(np.float64) @ b + bias))
    assert (error / terms).max() <= 2 * (a.shape[-1] + 1) * 2.0**-24


@pytest.mark.parametrize(
    ("m", "k", "o"),
    [
        pytest.param(1, 7, 70, id="one row, outputs beside the vectors"),
        pytest.param(103, 20, 64, id="rows beside the tiles, more than a chunk"),
        pytest.param(5, 1, 1, id="one term"),
    ],
)
def test_a_linear_layer(isa: Isa, run: Run, m: int, k: int, o: int) -> None:
    x, weight, bias = _random(m, k), _random(o, k), _random(o)
    got = run(linear(isa, LinearDesc(m, k, o, bias=True), weight, bias), x)
    _assert_rounded_once_a_term(got, x, weight.T, bias)
    got = run(linear(isa, LinearDesc(m, k, o, bias=False), weight, None), x)
    _assert_rounded_once_a_term(got, x, weight.T)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("batch", "m", "k", "n"), [(2, 7, 18, 37), (1, 20, 3, 5), (3, 1, 33, 64), (2, 3, 1, 1)]
)
def test_a_product_of_activations(
    isa: Isa, run: Run, batch: int, m: int, k: int, n: int, turned: bool
) -> None:
    a, b = _random(batch, m, k), _random(batch, k, n)
    lies = np.ascontiguousarray(b.swapaxes(1, 2)) if turned else b
    right = Operand(b.size, (k * n,), k if turned else n, turned)
    desc = ProductDesc((batch,), m, k, n, Operand(a.size, (m * k,), k), right)
    got = run(product(isa, desc), a.reshape(-1), lies.reshape(-1))
    _assert_rounded_once_a_term(got, a, b)


def test_a_batch_may_share_a_matrix_and_rows_may_lie_apart(isa: Isa, run: Run) -> None:
    a, b = _random(5, 2, 9), _random(9, 20)  # of a[row, batch, term]
    desc = ProductDesc((2,), 5, 9, 20, Operand(a.size, (9,), 18), Operand(b.size, (0,), 20))
    got = run(product(isa, desc), a.reshape(-1), b.reshape(-1))
    _assert_rounded_once_a_term(got, a.swapaxes(0, 1), b)


@pytest.mark.parametrize(
    ("vectors", "stride", "turned", "expected"),
    [(2, 2, False, True), (2, 3, False, False), (1.5, 1.5, False, False), (2, 2, True, False)],
)
def test_matrices_of_whole_vectors_without_gaps_are_read_as_they_lie(
    isa: Isa, vectors: float, stride: float, turned: bool, expected: bool
) -> None:
    n, apart = int(vectors * isa.lanes), int(stride * isa.lanes)
    right = Operand(4 * apart, (), apart, turned)
    desc = ProductDesc((), 2, 4, n, Operand(8, (), 4), right)
    assert desc.is_panels(isa.lanes) is expected


@pytest.mark.parametrize("batch", [1, 4])
def test_threads_give_the_same_bits(isa: Isa, run: Run, batch: int) -> None:
    a, b = _random(batch, 50, 30), _random(batch, 30, 70)
    left, right = Operand(a.size, (1500,), 30), Operand(b.size, (2100,), 70)
    desc = ProductDesc((batch,), 50, 30, 70, left, right)
    one, three = (run(product(isa, desc, n), a.reshape(-1), b.reshape(-1)) for n in (1, 3))
    np.testing.assert_array_equal(one, three)
    layer, weight = LinearDesc(50, 30, 70, bias=False), b[0].T.copy()
    one, three = (run(linear(isa, layer, weight, None, n), a[0]) for n in (1, 3))
    np.testing.assert_array_equal(one, three)
