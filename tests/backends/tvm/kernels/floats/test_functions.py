"""Functions of floats, against float64, over all exponents."""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.special import log_ndtr

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.emit import Flat, bind, loop, prim_func
from qpc.backends.tvm.kernels.floats.functions import (
    LEAST_SHARE,
    MOST_ANGLE,
    MOST_ERROR,
    Functions,
)
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType
from tests.backends.tvm.kernels.conftest import NOT_PLAIN

pytestmark = pytest.mark.tvm

Run = Callable[..., npt.NDArray[Any]]
SMALLEST_NORMAL = 2.0**-126

WANTED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "exp": torch.exp,
    "exp_negative": torch.exp,
    "expm1": torch.expm1,
    "sigmoid": torch.sigmoid,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "log": torch.log,
    "log1p": torch.log1p,
    "sin": torch.sin,
    "cos": torch.cos,
    "mish": torch.nn.functional.mish,
    "softplus": lambda x: torch.nn.functional.softplus(x, 2.0, 30.0),
    "gelu": lambda x: x * torch.exp(log_ndtr(x)),
    # As a sigmoid: 1 + tanh loses the digits of small shares even in float64.
    "gelu_tanh": lambda x: x * torch.sigmoid(2 * (2 / pi) ** 0.5 * (x + 0.044715 * x**3)),
}

NUMBERS = {"softplus": (2.0, 30.0)}
"""What functions are given besides."""


def _inputs(lanes: int) -> npt.NDArray[np.float32]:
    """Floats with every exponent, both signs, many around 0, and the strange ones."""
    bits = np.arange(0, 2**32, 99991, dtype=np.uint64).astype(np.uint32).view(np.float32)
    strange = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)
    near = np.linspace(-110, 110, 20001, dtype=np.float32)
    turns = (np.arange(-41000, 41000) * (pi / 2)).astype(np.float32)
    found = np.concatenate([bits, near, near / 16, turns, strange])
    return np.concatenate([found, np.zeros(-len(found) % lanes, np.float32)])


def _kernel(lanes: int, size: int, name: str) -> Kernel:
    def body(x: Flat, out: Flat) -> None:
        with loop(size // lanes) as i:
            made = getattr(Functions(lanes), name)(
                bind(x.load(i * lanes, lanes)), *NUMBERS.get(name, ())
            )
            out.store(i * lanes, made, lanes)

    kind = TensorType((size,), "float32")
    return Kernel(name, prim_func(name, (kind, kind), body), (kind,), (), kind)


@pytest.mark.parametrize("name", WANTED)
@pytest.mark.parametrize("target", NOT_PLAIN, indirect=True)
def test_the_relative_error_is_small_wherever_the_result_is_a_normal_number(
    isa: Isa, run: Run, name: str
) -> None:
    x = _inputs(isa.lanes)
    got = run(_kernel(isa.lanes, len(x), name), x).astype(np.float64)
    wanted = WANTED[name](torch.from_numpy(x).double()).numpy()
    if name == "exp_negative":
        got, wanted = got[~(x > 0)], wanted[~(x > 0)]
    if name in ("sin", "cos"):
        few = ~(np.abs(x) > MOST_ANGLE)
        x, got, wanted = x[few], got[few], wanted[few]
    with np.errstate(over="ignore"):
        as_float = wanted.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(as_float))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(as_float))
    least = np.full(len(got), SMALLEST_NORMAL)
    if name in ("silu", "gelu", "gelu_tanh", "mish"):  # shares may be zero below
        least *= np.clip(np.nan_to_num(np.abs(x)), 1, 1e4)
    if name == "gelu":
        least = np.maximum(least, LEAST_SHARE)
    normal = np.isfinite(as_float) & (np.abs(wanted) >= least)
    error = np.abs(got[normal] - wanted[normal]) / np.abs(wanted[normal])
    assert error.max() <= MOST_ERROR
    small = np.isfinite(as_float) & ~normal
    assert np.all(np.abs(got[small] - wanted[small]) <= least[small])
