"""The largest and smallest values are found as a stable sort finds them, with nothing of TVM."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")

import qpc
from tests.small_models import Call

pytestmark = pytest.mark.tvm

CASES = {
    "few of many": ((2, 1000), 5, 1, True),
    "the smallest": ((2, 300), 64, 1, False),
    "of another axis": ((2, 3, 90, 4), 70, 2, False),
    "all of a row": ((2, 129), 129, 1, True),
    "one of one": ((1, 1), 1, 1, True),
    "more than a list": ((1, 65), 65, 1, False),
}


@pytest.mark.parametrize(
    "case",
    [
        case
        if case in ("few of many", "more than a list")
        else pytest.param(case, marks=pytest.mark.thorough)
        for case in CASES
    ],
)
def test_they_are_those_of_a_stable_sort(case: str) -> None:
    shape, k, dim, largest = CASES[case]
    gm = qpc.trace(Call(lambda x: torch.topk(x, k, dim, largest)), torch.randn(shape))
    compiled = qpc.compile(gm, batch_sizes=(shape[0],), cache=False)
    assert compiled._program is not None
    assert compiled._program.loaded.library.borrowed == []
    x = torch.randn(shape)
    for given in (x, x.mul(2).round(), torch.zeros(shape), torch.full(shape, -torch.inf)):
        values, places = compiled(given)
        wanted = torch.sort(given, dim=dim, descending=largest, stable=True)
        assert torch.equal(values, wanted.values.narrow(dim, 0, k))
        assert torch.equal(places, wanted.indices.narrow(dim, 0, k))


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_floats_keep_their_order(dtype: torch.dtype) -> None:
    model = Call(lambda x: torch.topk(x, 3))
    x = torch.tensor([[1.0, 1.001, -2.0, torch.inf, 65504.0, 0.999]], dtype=dtype)
    compiled = qpc.compile(qpc.trace(model, x), batch_sizes=(1,))
    for got, wanted in zip(compiled(x), torch.topk(x, 3), strict=True):
        assert torch.equal(got, wanted)
