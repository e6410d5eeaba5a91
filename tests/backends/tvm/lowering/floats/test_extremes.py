"""Maxima and minima of numbers that are none, at the corners that random inputs do not reach."""

from __future__ import annotations

from collections.abc import Callable
from operator import getitem
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Node

from qpc.calls import aten
from tests.generators import IntegerGraph

tvm_backend = pytest.importorskip("qpc.backends.tvm", reason="Apache TVM is not installed")
pytestmark = pytest.mark.tvm

NAN, INF = torch.nan, torch.inf
ROWS = torch.tensor(
    [
        [1.0, NAN, 3.0, NAN, 2.0],
        [-INF, -INF, -INF, -INF, -INF],
        [INF, 2.0, INF, NAN, -INF],
        [2.0, 7.0, 7.0, -3.0, -3.0],
        [NAN, NAN, NAN, NAN, NAN],
        [-1e38, -3e38, -INF, -2e38, -3e38],
    ]
)
CALLS: list[tuple[Any, ...]] = [
    (aten.amax.default, [1]),
    (aten.amin.default, [-1], True),
    (aten.amax.default, []),
    (aten.argmax.default, 1),
    (aten.argmax.default, 0, True),
    (aten.argmin.default, 1),
    (aten.argmax.default,),
    (aten.max.dim, 1),
    (aten.max.dim, 0, True),
]
TOP = [(4, 1), (2, 1, False)]


def both(
    build: Callable[[IntegerGraph, Node], list[Node]], x: Tensor
) -> list[tuple[Tensor, Tensor]]:
    g = IntegerGraph()
    gm = g.module(*build(g, g.input(*x.shape[1:])))
    compiled = tvm_backend.compile_graph(gm, batch_sizes=(len(x),))
    return list(zip(compiled(x), gm(x), strict=True))


def test_reductions_find_what_pytorch_finds() -> None:
    def build(g: IntegerGraph, x: Node) -> list[Node]:
        found = []
        for target, *args in CALLS:
            made = g.call(target, x, *args)
            several = target is aten.max.dim
            found += [g.call(getitem, made, i) for i in (0, 1)] if several else [made]
        # of equal values, topk may take any
        return [*found, *(g.call(getitem, g.call(aten.topk.default, x, *a), 0) for a in TOP)]

    for got, wanted in both(build, ROWS):
        assert got.dtype == wanted.dtype
        assert torch.equal(got.isnan(), wanted.isnan())
        assert torch.equal(got[~got.isnan()], wanted[~wanted.isnan()])


def test_padding_of_a_pool_never_wins_and_nan_always_does() -> None:
    x = torch.full((1, 1, 5, 6), -INF)
    x[0, 0, 0, 0], x[0, 0, 4, 5] = NAN, INF

    def build(g: IntegerGraph, x: Node) -> list[Node]:
        window = ([3, 3], [2, 2], [1, 1], [1, 1])
        return [
            g.call(aten.max_pool2d.default, x, *window, ceil_mode) for ceil_mode in (False, True)
        ]

    for got, wanted in both(build, x):
        assert torch.allclose(got, wanted, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.float16])
def test_other_types_are_compared_too(dtype: torch.dtype) -> None:
    g = IntegerGraph()
    x = g.input(3, 4, dtype=dtype)
    made = [
        g.call(aten.amax.default, x, [1]),
        g.call(aten.relu.default, x),
        g.call(aten.maximum.default, x, x),
        g.call(aten.ne.Scalar, x, 2),
        g.call(aten.clamp.default, x, -1, 3),
        g.call(aten.argmin.default, x, 2),
        g.call(getitem, g.call(aten.topk.default, x, 2, 1), 0),
        g.call(aten.clamp.Tensor, x, None, g.call(aten.neg.default, x)),
        g.call(aten.clamp.Tensor, x, g.call(aten.neg.default, x), x),
    ]
    gm = g.module(*made)
    data = torch.tensor([[[1, -2, 3, 2], [2, 2, 2, -5], [0, 1, 9, 4]]]).to(dtype)
    for got, wanted in zip(tvm_backend.compile_graph(gm)(data), gm(data), strict=True):
        assert torch.equal(got, wanted)
