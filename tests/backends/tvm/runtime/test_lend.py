"""Code that calls functions of TVM by name finds them, and only where TVM is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
from tvm import relax

import qpc
from qpc import runtime
from qpc.backends.tvm.lowering.floats import reduction
from qpc.errors import ArtifactError
from tests.small_models import Call

pytestmark = [pytest.mark.tvm, pytest.mark.thorough]


def _sorted_by_tvm(
    builder: relax.BlockBuilder, x: Any, k: int, axis: int, *, largest: bool
) -> relax.Var:
    return builder.emit(relax.op.topk(x, k, axis, "indices", largest, "int64"))


def test_functions_of_tvm_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reduction, "places", _sorted_by_tvm)
    gm = qpc.trace(Call(lambda x: torch.topk(x, 3)), torch.randn(2, 8))
    first, second = qpc.compile(gm, cache=False), qpc.compile(gm, cache=False)
    first.save(tmp_path / "model")
    x = torch.randn(1, 8)
    for compiled in (first, second, first, qpc.load(tmp_path / "model")):
        for got, wanted in zip(compiled(x), torch.topk(x, 3), strict=True):
            assert torch.equal(got, wanted)
    with pytest.raises(ArtifactError, match="the model calls functions of TVM: TVMFFIFunctionCall"):
        runtime.load(tmp_path / "model")
