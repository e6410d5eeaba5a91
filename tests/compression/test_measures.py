from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.compression.measures import judged, latency_ms, measured, save_compiled, tensor_bytes
from qpc.compression.recipe import Compile
from qpc.testing import traced
from tests.compression.running import inputs, network


def test_tensors_that_are_shared_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.b(self.a(x))
            return result

    gm = traced(Tied(), torch.ones(1, 3))
    assert tensor_bytes(gm) == 9 * 4
    row = measured(gm, "tied", 0.5, candidate=True, latency_ms=None)
    assert (row.macs, row.parameters, row.bytes) == (18, 9, 36)
    assert row.fingerprint == qpc.fingerprint(gm)


def test_what_an_evaluation_does_to_its_graph_does_not_matter() -> None:
    gm = traced(network(), inputs())
    before = qpc.fingerprint(gm)

    def rude(graph: GraphModule) -> float:
        assert not torch.is_grad_enabled()
        for parameter in graph.parameters():
            parameter.zero_()
        qpc.set_training(graph)
        return 1

    assert judged(gm, rude, "x", torch.device("cpu")) == 1.0
    assert qpc.fingerprint(gm) == before


def test_models_are_compiled_timed_and_saved(tmp_path: Path) -> None:
    gm = traced(network(), inputs())
    options = Compile(target="reference", repeats=3)
    assert latency_ms(gm, options) > 0
    save_compiled(gm, options, tmp_path / "compiled")
    assert list(tmp_path.iterdir()) == [], "the reference saves nothing"


@pytest.mark.tvm
def test_a_recipe_asks_for_latency_and_the_best_is_kept_compiled(tmp_path: Path) -> None:
    pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
    recipe = {
        "finish": [
            {"kind": "quantize", "config": {"default": {"activation": {"observer": "min-max"}}}}
        ],
        "compile": {"repeats": 5},
        "prefer": "latency_ms",
    }
    result = qpc.compress(
        network(), recipe, evaluate=lambda gm: 1.0, batches=[inputs()], out=tmp_path / "run"
    )
    assert [(row.latency_ms or 0) > 0 for row in result.rows] == [False, True]
    compiled = qpc.load(tmp_path / "run" / "compiled")
    one = inputs()[:1]
    assert torch.equal(compiled(one), result.model(one))
