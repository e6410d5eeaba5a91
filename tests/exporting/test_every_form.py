"""Every network that can be quantized is written in every form, or its error names the operator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.errors import BackendError, PassError, QPCError, UnsupportedOpError
from qpc.exporting.tensorrt import tensorrt_problems
from qpc.quant.config import ActivationConfig, LayerConfig, QuantConfig
from tests.exporting.nets import Mixed, Residual
from tests.quantizing import min_max
from tests.robustness.modules import random_module

onnx = pytest.importorskip("onnx")
pytest.importorskip("flatbuffers")

FORMS = ("onnx-qdq", "onnx-tensorrt", "onnx-float", "onnx-integer", "tflite")


def exported(gm: GraphModule, folder: Path) -> dict[str, str]:
    """What came of each form: "", or the error."""
    found: dict[str, str] = {}
    for form in FORMS:
        options: dict[str, Any] = {"batch": 2} if form == "tflite" else {}
        error: QPCError | None = None
        try:
            qpc.export(gm, folder / f"net.{form}", form=form, **options)
        except (UnsupportedOpError, BackendError) as e:
            error = e
        found[form] = "" if error is None else error.what
        assert error is None or error.node is not None or "at " in error.what, error
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed: int, tmp_path: Path) -> None:
    defined: dict[str, Any] = {}
    exec(random_module(seed, 6).source, defined)
    inputs = defined["inputs"](2)
    gm = qpc.trace(defined["net"].eval(), inputs)
    try:
        integers = qpc.quantize(gm, [inputs], min_max(), effort="fast")
    except PassError:
        pytest.skip("nothing of this network can be quantized")
    exported(integers, tmp_path)


SYMMETRIC = QuantConfig(
    default=LayerConfig(activation=ActivationConfig(symmetric=True), results="integer")
)


@pytest.mark.thorough
@pytest.mark.parametrize(("make", "size"), [(Residual, 8), (Mixed, 17)])
def test_symmetric_networks_have_all_forms(
    make: Callable[[], nn.Module], size: int, tmp_path: Path
) -> None:
    x = torch.randn(4, 3, size, size)
    gm = qpc.trace(make().eval(), x)
    found = exported(qpc.quantize(gm, [x], SYMMETRIC, effort="fast"), tmp_path)
    assert found == dict.fromkeys(FORMS, "")
    assert tensorrt_problems(onnx.load(tmp_path / "net.onnx-tensorrt")) == []
