from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from qpc.bench import try_peer
from qpc.bench.peers import Files
from tests.quantizing import Parts, fake_quantized, integer


def test_it_runs_a_model_from_a_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = Parts(lambda m, x: m.linear(x), linear=nn.Linear(6, 3))
    file = tmp_path / "model.onnx"
    gm = integer(fake_quantized(model, torch.randn(5, 6)))
    file.write_bytes(Files(gm, 5).of("onnxruntime"))
    try_peer.main("onnxruntime", str(file), "1", '[["float32", [5, 6]]]')
