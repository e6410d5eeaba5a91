"""Reductions of floats, against numpy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.floats.reduction import OPERATIONS, ReduceDesc, reduction
from qpc.backends.tvm.kernels.isa.base import Isa
from tests.backends.tvm.kernels.conftest import NOT_PLAIN

pytestmark = [pytest.mark.tvm, pytest.mark.parametrize("target", NOT_PLAIN, indirect=True)]

Run = Callable[..., npt.NDArray[Any]]

NUMPY: dict[str, Callable[..., npt.NDArray[np.float64]]] = {
    "sum": np.sum,
    "mean": np.mean,
    "product": np.prod,
    "largest": np.max,
    "smallest": np.min,
}
SHAPES = [(3, 5, 1), (2, 70, 1), (2, 5, 3), (1, 9, 70), (2, 1, 1), (1, 1, 40)]


@pytest.mark.every(5)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_reductions_with_any_number_of_threads(
    isa: Isa, run: Run, operation: str, shape: tuple[int, int, int]
) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    desc = ReduceDesc(operation, *shape)
    one, three = (run(reduction(isa, desc, threads), x) for threads in (1, 3))
    np.testing.assert_array_equal(one, three)
    wanted = NUMPY[operation](x.astype(np.float64), axis=1)
    np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 40, 1), (1, 9, 20)], ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("place", [0, 5, 8])
def test_nan_stays_nan_of_either_sign_and_infinities_are_no_nan(
    isa: Isa, run: Run, operation: str, shape: tuple[int, int, int], place: int
) -> None:
    kernel = reduction(isa, ReduceDesc(operation, *shape))
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        x = np.ones(shape, np.float32)
        x[0, place] = value
        np.testing.assert_array_equal(run(kernel, x), NUMPY[operation](x, axis=1))
