from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("tvm")

import qpc
from qpc.backends.tvm import tune_worker
from qpc.backends.tvm.tuning import VARIANTS, read_results
from tests.quantizing import Parts, fake_quantized, integer

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = Parts(lambda m, x: m.conv(x).relu(), conv=nn.Conv2d(3, 32, 3))
    path = tmp_path_factory.mktemp("graph") / "graph"
    qpc.save_graph(integer(fake_quantized(model, torch.randn(2, 3, 10, 10))), path)
    return path


def test_each_tile_is_measured_once_and_kept(graph: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    tune_worker.main(str(graph), "native", "1", "1", "100", str(file))
    found = read_results(file)
    assert len(found) == VARIANTS
    assert len({result.tile for result in found}) == VARIANTS
    assert len({result.kernel for result in found}) == 1
    assert all(result.ratio > 0 for result in found)
    # A process that was killed goes on where it was; one that was not has nothing to do.
    before = file.read_text().splitlines()
    file.write_text("\n".join(before[:3]) + "\n")
    tune_worker.main(str(graph), "native", "1", "1", "100", str(file))
    assert [(r.kernel, r.tile) for r in read_results(file)] == [(r.kernel, r.tile) for r in found]
    tune_worker.main(str(graph), "native", "1", "1", "100", str(file))
    assert len(read_results(file)) == VARIANTS


def test_without_time_nothing_is_measured(graph: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    tune_worker.main(str(graph), "native", "1", "1", "0", str(file))
    assert not file.exists()
