"""Kernels of weight-only layers, against sums in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.stored.weight_only import WeightOnlyDesc, weight_only

pytestmark = pytest.mark.tvm

Run = Callable[..., npt.NDArray[Any]]
CASES = [
    pytest.param(1, 40, 70, 32, id="one row, a shorter last group, outputs beside the vectors"),
    pytest.param(13, 64, 33, 32, id="rows beside the tiles"),
    pytest.param(200, 5, 3, 5, id="more rows than a chunk, an odd number of inputs"),
    pytest.param(2, 33, 128, 32, id="a last group of one"),
    pytest.param(1, 1, 1, 1, id="one number"),
]


@pytest.mark.parametrize(("bias", "packed"), [(False, False), (True, True)])
@pytest.mark.parametrize(("m", "k", "o", "group"), CASES)
def test_the_error_is_that_of_sums_of_floats(
    isa: Isa, run: Run, m: int, k: int, o: int, group: int, bias: bool, packed: bool
) -> None:
    random = np.random.default_rng(0)
    limit = 8 if packed else 127
    weight = random.integers(-limit, limit, (o, k)).astype(np.int8)
    scale = random.uniform(0.01, 1, (o, -(-k // group))).astype(np.float32)
    x = random.normal(size=(m, k)).astype(np.float32)
    added = random.normal(size=o).astype(np.float32)
    desc = WeightOnlyDesc(m, k, o, group, packed, bias)
    result = run(weight_only(isa, desc, weight, scale, added if bias else None), x)
    real = weight * np.repeat(scale.astype(np.float64), group, 1)[:, :k]
    terms = np.abs(x) @ np.abs(real).T + 1
    error = np.abs(result - (x @ real.T + added * bias)) / terms
    assert error.max() <= (k + 2) * 2.0**-24


def test_threads_give_the_same_sums(isa: Isa, run: Run) -> None:
    random = np.random.default_rng(0)
    weight = random.integers(-8, 8, (70, 40)).astype(np.int8)
    scale, x = np.ones((70, 2), np.float32), random.normal(size=(200, 40)).astype(np.float32)
    desc = WeightOnlyDesc(200, 40, 70, 32, packed=True, bias=False)
    one, three = (run(weight_only(isa, desc, weight, scale, None, n), x) for n in (1, 3))
    np.testing.assert_array_equal(one, three)
