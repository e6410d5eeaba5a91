"""Operators that are made of simpler ones, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("tvm", reason="Apache TVM is not installed")

import qpc
from qpc.backends.tvm.lowering.floats.composed import RULES
from tests.small_models import Call

BORDERS = torch.tensor([-1.0, 0.0, 0.0, 1.0])

CASES: dict[str, Callable[[Tensor], Any]] = {
    "any": lambda x: ((x > 1).any(), (x > 1).any(1), (x > 1).all(2, keepdim=True), x.any(1)),
    "extremes": lambda x: (x.max(), x.min(), *x.min(1), *x.aminmax(dim=2)),
    "all in one": lambda x: (x.sum(), x.std(), F.mse_loss(x, x.flip(1)), (x > 0).double().mean()),
    "two likelihoods": lambda x: F.binary_cross_entropy_with_logits(x, x.sigmoid()),
    "sums of products": lambda x: torch.addbmm(x[0, 0, :, :5], x[0], x[0].mT, beta=0.5, alpha=2),
    "the rest of erf": lambda x: torch.erfc(x),
    "order": lambda x: (*x.sort(1), *x.sort(2, descending=True), *x.sort(dim=3, stable=True)),
    "quantile": lambda x: x.quantile(0.3, 1),
    "diagonals": lambda x: (x.diagonal(1, 2, 3), x.diagonal(-2, 3, 1), x.diagonal(9, 2, 3)),
    "distances": lambda x: [torch.cdist(x, x + 1, p) for p in (0.0, 1.0, 1.5, 2.0)],
    "distances of rows": lambda x: torch.cdist(x[0, 0], x[0, 1, :3], 1.0),
    "a form of two": lambda x: F.bilinear(x, x + 1, torch.ones(3, 7, 7)),
    "buckets": lambda x: (
        torch.bucketize(x.round(), BORDERS),
        torch.bucketize(x.round(), BORDERS, right=True, out_int32=True),
        torch.searchsorted(x.sort(-1)[0], x[..., :2].contiguous(), side="right"),
    ),
    "one of": lambda x: F.one_hot(x.argmax(1), 6),
    "integers": lambda x: ((x * 9).to(torch.int32) & 3, (x * 9).to(torch.int32) // 4),
    "quotients of integers": lambda x: [
        f((x * 9).to(torch.int32), (x * 9).abs().to(torch.int32) + 2)
        for f in (
            torch.div,
            torch.fmod,
            torch.remainder,
            lambda a, _: a / 4,
            lambda a, _: a.fmod(4),
            lambda a, b: torch.div(a, b, rounding_mode="trunc"),
            lambda a, b: torch.div(a, b, rounding_mode="floor"),
        )
    ],
    "shifted": lambda x: ((x * 9).to(torch.int32) >> 1, (x * 9).to(torch.int64) << 3),
    "running sums": lambda x: [
        f(axis)
        for y in ((x > 0), (x * 9).to(torch.int32), x)
        for f, axis in ((y.cumsum, 1), (y.cumprod, 2))
    ],
    "sums of another type": lambda x: ((x > 0).cumsum(1, dtype=torch.float32), x[0].cumsum(0)),
    "products of integers": lambda x: ((x > -1).prod(1), (x * 3).int().prod(3, keepdim=True)),
    "powers and logarithms": lambda x: (x.exp2(), x.log2(), x.abs().log10(), x.cosh(), x.sinh()),
    "angles": lambda x: (x.atan(), torch.atan2(x, x.flip(1)), x.asin(), x.acos(), x.asinh()),
    "rests": lambda x: (torch.fmod(x, 0.3), torch.fmod(x, x.flip(1))),
    "signs": lambda x: (x.signbit(), torch.copysign(x, x.flip(1))),
    "greater but for NaN": lambda x: (torch.fmax(x, x.flip(1)), torch.fmin(x, x.flip(1))),
    "products": lambda x: (x.prod(1), x.cumprod(2)),
    "pool with places": lambda x: F.max_pool2d(x, (2, 3), (2, 1), (1, 1), return_indices=True),
    "pooled and back": lambda x: F.max_unpool2d(
        *F.max_pool2d(x, 2, return_indices=True), (2, 2), output_size=x.shape[-2:]
    ),
    "truths and numbers": lambda x: ((x > 0) != 0, (x > 0) == 1, (x > 0) != 1),
}


@pytest.mark.every(4)
@pytest.mark.parametrize("function", CASES.values(), ids=CASES.keys())
def test_values_are_those_of_pytorch(function: Callable[[Tensor], Any]) -> None:
    x = torch.randn(1, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    model = Call(function)
    compiled = qpc.compile(qpc.trace(model, x), cache=False)
    for value in (0.0, float("nan")):
        x[0, 3, 2, 4] = value
        torch.testing.assert_close(compiled(x), model(x), equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_embeddings(mode: str) -> None:
    weight, indices = torch.randn(9, 4), torch.tensor([[1, 2, 8, 0], [3, 3, 3, 1]])
    model = Call(lambda x, w: F.embedding_bag(x, w, mode=mode, padding_idx=3), w=weight)
    compiled = qpc.compile(qpc.trace(model, indices), batch_sizes=(2,), cache=False)
    torch.testing.assert_close(compiled(indices), model(indices))


def test_the_largest_distance() -> None:
    x, y = torch.randn(1, 5, 3), torch.randn(1, 4, 3)
    model = Call(lambda a, b: torch.cdist(a, b, float("inf")))
    compiled = qpc.compile(qpc.trace(model, (x, y)), cache=False)
    torch.testing.assert_close(compiled(x, y), model(x, y))


class Spelled(TorchDispatchMode):
    """Operators are what they are made of when they are compiled."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = RULES.get(function)
        if rule is None:
            return function(*args, **kwargs or {})
        assert rule.decomposition is not None
        return rule.decomposition(*args, **kwargs or {})


def bags(x: Tensor, mode: str) -> Tensor:
    return F.embedding_bag(x.argsort(2)[0, :, :, 0], x[0, 0, :, :4], mode=mode, padding_idx=3)


UNCOMPILED: dict[str, Callable[[Tensor], Any]] = {
    **CASES,
    **{f"{mode} of embeddings": partial(bags, mode=mode) for mode in ("sum", "mean", "max")},
    "the largest distance": lambda x: torch.cdist(x[0], x[0, :, :2], torch.inf),
    "scattered": lambda x: [
        x.scatter(1, x.argsort(1)[:, :2], x[:, 2:4]),
        x.scatter(3, x.argsort(3)[..., :2], 5.0),
        x.scatter_add(2, x.argsort(2)[:, :, :2] // 2, x[:, :, 3:]),
    ],
    "bits": lambda x: [(x * 9).to(torch.int32) & 3, (x * 9).int() | 4, (x * 9).int() ^ 5],
}


@pytest.mark.parametrize("function", UNCOMPILED.values(), ids=UNCOMPILED.keys())
def test_what_operators_are_made_of_computes_the_same(function: Callable[[Tensor], Any]) -> None:
    x = torch.randn(1, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    wanted = function(x)
    with Spelled():
        found = function(x)
    torch.testing.assert_close(found, wanted, equal_nan=True, rtol=1e-5, atol=1e-5)
