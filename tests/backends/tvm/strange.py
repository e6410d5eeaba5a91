"""Functions of numbers that are none, compiled and in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from qpc.backends import tvm
from qpc.capture.trace import trace
from tests.small_models import Call

NAN, INF = torch.nan, torch.inf
NUMBERS = torch.tensor([[1.0, NAN, INF, -INF, 0.0, -0.0, -2.0, 3e38]])


def assert_like_pytorch(functions: Sequence[Callable[[Tensor], object]], x: Tensor) -> None:
    """All of `functions` in one graph give what PyTorch gives: NaN, infinities and zero's sign."""

    def all_of_them(x: Tensor) -> tuple[object, ...]:
        return tuple(function(x) for function in functions)

    compiled = tvm.compile_graph(trace(Call(all_of_them), x), batch_sizes=(len(x),))
    pairs = zip(tree_leaves(compiled(x)), tree_leaves(all_of_them(x)), strict=True)
    for number, (got, wanted) in enumerate(pairs):
        assert got.dtype == wanted.dtype, number
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6, equal_nan=True)
        if got.is_floating_point():
            zero = wanted == 0
            assert torch.equal(got[zero].signbit(), wanted[zero].signbit()), number
