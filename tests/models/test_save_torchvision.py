"""Every classifier of torchvision is saved and comes back equal: no operator is missing."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

import qpc
from tests.models.test_trace_torchvision import IMAGE_SIZE, QUICK, SLOW, network

pytestmark = pytest.mark.models

HERE_QUICK = {"squeezenet1_1"}
EACH = [
    pytest.param(name, id=name, marks=[] if name in HERE_QUICK else pytest.mark.slow)
    for name in sorted({*QUICK, *SLOW})
]


@pytest.mark.parametrize("name", EACH)
def test_a_network_comes_back_equal(name: str, torchvision: ModuleType, tmp_path: Path) -> None:
    size = IMAGE_SIZE.get(name, 64)
    gm = qpc.trace(network(torchvision, name, size), torch.randn(1, 3, size, size), check=False)
    qpc.save_graph(gm, tmp_path / "graph")
    assert qpc.fingerprint(qpc.load_graph(tmp_path / "graph")) == qpc.fingerprint(gm)
