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
