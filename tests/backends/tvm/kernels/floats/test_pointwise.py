"""Functions of single floats, over whole tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.floats.functions import MOST_ERROR
from qpc.backends.tvm.kernels.floats.pointwise import PointwiseDesc, pointwise
from qpc.backends.tvm.kernels.isa.base import Isa
from tests.backends.tvm.kernels.conftest import NOT_PLAIN

pytestmark = [pytest.mark.tvm, pytest.mark.parametrize("target", NOT_PLAIN, indirect=True)]

Run = Callable[..., npt.NDArray[Any]]


@pytest.mark.parametrize("size", [1, 37, 1000])
def test_every_element_has_its_value_with_any_number_of_threads(
    isa: Isa, run: Run, size: int
) -> None:
    x = np.linspace(-3, 3, size, dtype=np.float32)
    desc = PointwiseDesc("elu", size, (1.5, 0.75, 2.0))
    one, three = (run(pointwise(isa, desc, threads), x) for threads in (1, 3))
    np.testing.assert_array_equal(one, three)
    exact = torch.ops.aten.elu(torch.from_numpy(x).double(), 0.5, 1.5, 2.0)
    np.testing.assert_allclose(one, exact.numpy(), rtol=1e-5)
    assert np.array_equal(one > 0, F.relu(torch.from_numpy(x)).numpy() > 0)


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sines_are_those_of_all_angles(isa: Isa, run: Run, name: str) -> None:
    x = np.arange(0, 2**32, 399989, dtype=np.uint64).astype(np.uint32).view(np.float32)
    strange = np.array([np.inf, -np.inf, -0.0], np.float32)
    x = np.concatenate([x, np.linspace(-300, 300, 100, dtype=np.float32), strange])
    got = run(pointwise(isa, PointwiseDesc(name, len(x))), x)
    exact = getattr(torch, name)(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(got, exact, rtol=MOST_ERROR, atol=1e-44)
    if name == "sin":
        assert np.signbit(got[-1])
    alone = run(pointwise(isa, PointwiseDesc(name, 1)), x[-50:-49])
    assert alone == got[-50], "a value does not depend on others"
