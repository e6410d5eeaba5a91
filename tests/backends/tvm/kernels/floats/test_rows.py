"""Softmax and norms, against PyTorch in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.floats.rows import NormDesc, SoftmaxDesc, norm, softmax
from qpc.backends.tvm.kernels.isa.base import Isa
from tests.backends.tvm.kernels.conftest import NOT_PLAIN

pytestmark = [pytest.mark.tvm, pytest.mark.parametrize("target", NOT_PLAIN, indirect=True)]

Run = Callable[..., npt.NDArray[Any]]


def _random(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(3, 4, size=shape).astype(np.float32)


@pytest.mark.parametrize("logarithm", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 1), (2, 150, 1), (2, 9, 37)])
def test_softmax(isa: Isa, run: Run, shape: tuple[int, int, int], logarithm: bool) -> None:
    x = _random(*shape)
    got = run(softmax(isa, SoftmaxDesc(*shape, logarithm)), x)
    wanted = (F.log_softmax if logarithm else F.softmax)(torch.from_numpy(x).double(), 1)
    # The largest value is near 16, whose differences have an error of half a unit, near 1e-6.
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-5, atol=4e-6 * logarithm)


def test_softmax_makes_nan_of_what_pytorch_does(isa: Isa, run: Run) -> None:
    x = np.zeros((4, 40, 1), np.float32)
    x[0, 3], x[1, 3], x[2], x[3, 3] = np.nan, np.inf, -np.inf, -np.inf
    wanted = F.softmax(torch.from_numpy(x), 1).numpy()
    np.testing.assert_allclose(run(softmax(isa, SoftmaxDesc(4, 40, 1)), x), wanted, rtol=1e-6)


@pytest.mark.parametrize("size", [5, 130])
def test_norms_of_rows(isa: Isa, run: Run, size: int) -> None:
    x, weight, bias = _random(3, size), _random(size), _random(size)
    exact, *affine = [torch.from_numpy(t).double() for t in (x, weight, bias)]
    desc = NormDesc(3, size, 1e-5, weight=True, bias=True)
    wanted = F.layer_norm(exact, (size,), affine[0], affine[1], eps=1e-5).numpy()
    np.testing.assert_allclose(run(norm(isa, desc), x, weight, bias), wanted, rtol=1e-5, atol=1e-5)
    desc = NormDesc(3, size, 0.0, centred=False, weight=True)
    wanted = F.rms_norm(exact, (size,), affine[0], eps=0.0).numpy()
    np.testing.assert_allclose(run(norm(isa, desc), x, weight), wanted, rtol=1e-5)


@pytest.mark.parametrize("size", [3, 37])
def test_equal_elements_are_their_own_mean(isa: Isa, run: Run, size: int) -> None:
    x = np.repeat(np.array([[100.1], [-7.3], [1e20]], np.float32), size, axis=1)
    assert not run(norm(isa, NormDesc(3, size, 1e-5)), x).any()


def test_norms_of_groups(isa: Isa, run: Run) -> None:
    x, weight, bias = _random(2, 6, 21), _random(6), _random(6)
    desc = NormDesc(4, 63, 1e-5, weight=True, bias=True, channels=6, in_row=3)
    got = run(norm(isa, desc), x.reshape(4, 63), weight, bias).reshape(x.shape)
    exact, *affine = [torch.from_numpy(t).double() for t in (x, weight, bias)]
    wanted = F.group_norm(exact, 2, affine[0], affine[1], eps=1e-5).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_threads_give_the_same_bits(isa: Isa, run: Run) -> None:
    x = _random(7, 50)
    one, three = (run(norm(isa, NormDesc(7, 50, 1e-5), n), x) for n in (1, 3))
    np.testing.assert_array_equal(one, three)
    one, three = (run(softmax(isa, SoftmaxDesc(1, 7, 50), n), x[None]) for n in (1, 3))
    np.testing.assert_array_equal(one, three)
