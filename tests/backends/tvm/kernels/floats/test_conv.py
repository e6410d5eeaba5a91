"""Convolutions of floats, against PyTorch in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.floats.conv import ConvDesc, Sizes, conv
from qpc.backends.tvm.kernels.isa.base import Isa
from tests.backends.tvm.kernels.conftest import NOT_PLAIN

pytestmark = [pytest.mark.tvm, pytest.mark.parametrize("target", NOT_PLAIN, indirect=True)]

Run = Callable[..., npt.NDArray[Any]]

#         n  c  size      o   kernel  stride  padding           dilation groups
CASES = [
    (2, 3, (9, 20), 8, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    pytest.param(
        *(1, 4, (7, 7), 6, (3, 2), (2, 3), ((2, 2), (0, 0)), (1, 2), 2), marks=pytest.mark.slow
    ),
    (1, 5, (6, 6), 5, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 5),
    (1, 2, (6, 20), 5, (2, 3), (1, 1), ((-2, 3), (3, -1)), (1, 1), 1),  # crops
    (1, 2, (3, 4), 5, (2, 3), (1, 1), ((-3, 4), (6, 0)), (1, 1), 1),  # nothing of it is kept
    # The last two pixels lie as far apart as the first and the last of a vector of 4 or 8.
    (1, 2, (2, 3), 4, (1, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    (1, 2, (2, 7), 4, (1, 7), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    (2, 3, (40,), 9, (5,), (2,), ((4, 1),), (2,), 1),
    (2, 4, (4, 5, 9), 6, (2, 3, 3), (1, 2, 1), ((0, 0), (1, 1), (2, 1)), (1, 1, 2), 2),
    pytest.param(
        *(1, 17, (1, 40), 9, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1), marks=pytest.mark.slow
    ),
    pytest.param(
        *(1, 2, (1, 1), 1, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1), marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(
    ("n", "c", "size", "o", "kernel", "stride", "padding", "dilation", "groups"), CASES
)
def test_convolutions_with_any_number_of_threads(
    isa: Isa,
    run: Run,
    n: int,
    c: int,
    size: Sizes,
    o: int,
    kernel: Sizes,
    stride: Sizes,
    padding: tuple[tuple[int, int], ...],
    dilation: Sizes,
    groups: int,
) -> None:
    random = np.random.default_rng(0)
    x, weight, bias = (
        random.normal(size=shape).astype(np.float32)
        for shape in ((n, c, *size), (o, c // groups, *kernel), (o,))
    )
    desc = ConvDesc(n, c, size, o, kernel, stride, padding, dilation, groups, bias=True)
    one, three = (run(conv(isa, desc, weight, bias, threads), x) for threads in (1, 3))
    np.testing.assert_array_equal(one, three)
    exact, *own = [torch.from_numpy(t).double() for t in (x, weight, bias)]
    framed = F.pad(exact, [border for around in reversed(padding) for border in around])
    convolution = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
    wanted = convolution(framed, own[0], own[1], stride, 0, dilation, groups).numpy()
    np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-5)
    given = run(conv(isa, desc, None, bias), x, weight.reshape(-1))  # as a second input
    np.testing.assert_array_equal(given, one)
