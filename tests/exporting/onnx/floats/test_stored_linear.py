"""Layers with integer weights and float values, in every form that they are part of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.quant.config import LayerConfig, QuantConfig, WeightConfig
from tests.exporting.nets import as_onnx, kinds, ran, read

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

X = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))


def stored(mode: Any, **weight: Any) -> GraphModule:
    torch.manual_seed(0)
    config = QuantConfig(default=LayerConfig(mode=mode, weight=WeightConfig(**weight)))
    return qpc.quantize(qpc.trace(nn.Linear(64, 7), X), config=config)


@pytest.mark.parametrize("weight", [{}, {"bits": 4, "group": 32}], ids=["int8", "int4 in groups"])
def test_weight_only_layers(weight: dict[str, int]) -> None:
    gm = stored("weight-only", **weight)
    for kind in ("qdq", "float", "integer"):
        (found,) = ran(as_onnx(gm, kind), X)
        # Values of layers with such weights behind a node are rounded by ONNX Runtime.
        tolerance = 2e-2 if kind == "qdq" else 1e-5
        assert torch.allclose(found, read(gm, X)[0], atol=tolerance)
    assert ("DequantizeLinear" in kinds(as_onnx(gm))) == (not weight)


def test_dynamic_layers_are_the_same_bits() -> None:
    gm = stored("dynamic")
    x = X.clone()
    x[0, 1, 3], x[1, 2, 0], x[2, 0] = float("nan"), float("inf"), 0.0
    for kind in ("qdq", "integer"):
        (found,) = ran(as_onnx(gm, kind), x)
        assert torch.equal(found.nan_to_num(-1), read(gm, x)[0].nan_to_num(-1))
        assert torch.isnan(found).any(-1).sum() == 2
