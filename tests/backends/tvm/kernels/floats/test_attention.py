"""Attention in one kernel, against PyTorch in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.floats.attention import AttentionDesc, attention
from qpc.backends.tvm.kernels.floats.product import Operand
from qpc.backends.tvm.kernels.isa.base import Isa
from tests.backends.tvm.kernels.conftest import NOT_PLAIN

pytestmark = [pytest.mark.tvm, pytest.mark.parametrize("target", NOT_PLAIN, indirect=True)]

Run = Callable[..., npt.NDArray[Any]]


def _random(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def _desc(heads: int, tokens: int, keys: int, width: int, values: int) -> AttentionDesc:
    query, key, value = (
        Operand(heads * rows * columns, (rows * columns,), columns)
        for rows, columns in ((tokens, width), (keys, width), (keys, values))
    )
    return AttentionDesc((heads,), tokens, keys, width, values, 0.3, query, key, value)


def _check(run: Run, isa: Isa, desc: AttentionDesc, threads: int = 1) -> npt.NDArray[Any]:
    heads = desc.batch[0]
    query, key = _random(heads, desc.tokens, desc.width), _random(heads, desc.keys, desc.width)
    given = [query, key, _random(heads, desc.keys, desc.values)]
    mask = None
    if desc.mask:
        given.append(_random(desc.tokens, desc.keys))
        given[-1][:, ::3] = -np.inf
        given[-1][0] = -np.inf  # a query that sees nothing
        mask = torch.from_numpy(given[-1]).double()
    got = run(attention(isa, desc, threads), *(x.reshape(-1) for x in given))
    exact = [torch.from_numpy(x).double() for x in given[:3]]
    wanted = F.scaled_dot_product_attention(
        exact[0],
        exact[1],
        exact[2],
        mask,
        is_causal=desc.causal,
        scale=desc.scale,
    )
    np.testing.assert_allclose(got, torch.nan_to_num(wanted).numpy(), rtol=1e-5, atol=1e-6)
    return got


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        (1, 150, 140, 8, 16),
        pytest.param((2, 5, 7, 3, 7), marks=pytest.mark.slow),
        pytest.param((1, 20, 33, 20, 33), marks=pytest.mark.slow),
        pytest.param((3, 1, 1, 1, 1), marks=pytest.mark.slow),
    ],
)
def test_attention(isa: Isa, run: Run, sizes: tuple[int, int, int, int, int], causal: bool) -> None:
    _check(run, isa, replace(_desc(*sizes), causal=causal))


def test_a_mask_is_added_and_what_sees_nothing_is_zero(isa: Isa, run: Run) -> None:
    desc = replace(_desc(2, 9, 70, 5, 6), mask=Operand(9 * 70, (0,), 70))
    assert not _check(run, isa, desc)[:, 0].any()


@pytest.mark.parametrize("heads", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_threads_give_the_same_bits(isa: Isa, run: Run, heads: int) -> None:
    # The last query sees the first key of a block of two vectors and no other.
    desc = replace(_desc(heads, 33, 60, 16, 16), causal=True)
    one, three = (_check(run, isa, desc, threads) for threads in (1, 3))
    np.testing.assert_array_equal(one, three)
