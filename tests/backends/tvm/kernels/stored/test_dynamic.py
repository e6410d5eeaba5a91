"""Kernels of layers with dynamic ranges return the bits of the definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.stored.dynamic import DynamicDesc, dynamic
from qpc.calls import qpc_ops

pytestmark = pytest.mark.tvm

Array = npt.NDArray[Any]
Run = Callable[..., Array]


def rows(m: int, k: int) -> Array:
    """Rows of all sizes of numbers; some without negative ones, or without any."""
    random = np.random.default_rng(0)
    x = random.normal(size=(m, k)) * 10.0 ** random.integers(-42, 37, (m, 1))
    x[::5] = abs(x[::5])
    x[3::5] = -abs(x[3::5])
    x[4::7] = 0
    return x.astype(np.float32)


def check(isa: Isa, run: Run, x: Array, o: int, *, bias: bool = True, limit: int = 127) -> None:
    random = np.random.default_rng(1)
    (m, k), threads = x.shape, 3
    weight = random.integers(-limit, limit + 1, (o, k)).astype(np.int8)
    scale = random.uniform(1e-3, 1, o).astype(np.float32)
    added = random.normal(size=o).astype(np.float32) if bias else None
    operands = [None if a is None else torch.from_numpy(a) for a in (x, weight, scale, added)]
    expected = qpc_ops.dynamic_linear(*operands).numpy()
    for count in (1, threads):
        kernel = dynamic(isa, DynamicDesc(m, k, o, bias), weight, scale, added, count)
        result = run(kernel, x)
        undefined = np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(result), undefined)
        bits = [a[~undefined].view(np.int32) for a in (result, expected)]
        np.testing.assert_array_equal(*bits)


@pytest.mark.parametrize(
    ("m", "k", "o", "bias"),
    [(1, 40, 70, True), (13, 64, 33, True), (20, 5, 3, False), (1, 1, 1, True), (110, 7, 9, False)],
)
def test_all_bits_are_those_of_the_definition(
    isa: Isa, run: Run, m: int, k: int, o: int, bias: bool
) -> None:
    check(isa, run, rows(m, k), o, bias=bias)


def test_small_weights_are_exact_too(isa: Isa, run: Run) -> None:
    check(isa, run, rows(9, 50), 40, limit=7)


@pytest.mark.parametrize("k", [5, 50])
def test_strange_values_are_found_wherever_they_are(isa: Isa, run: Run, k: int) -> None:
    x = np.ones((3 * k, k), np.float32)
    for place in range(k):
        x[3 * place : 3 * place + 3, place] = np.nan, np.inf, -np.inf
    most = np.finfo(np.float32).max
    usual = np.array([[most] * k, [-most] + [most] * (k - 1), [1e-45] * k, [-0.0] * k], np.float32)
    check(isa, run, np.concatenate([x, usual]), 6)
