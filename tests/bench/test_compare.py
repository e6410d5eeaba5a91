from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.bench.compare import Comparison, compare
from qpc.bench.request import installed_peers
from qpc.bench.table import table
from qpc.bench.turns import Block
from qpc.targets import Target
from tests.quantizing import Parts, fake_quantized, integer

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def graph() -> GraphModule:
    model = Parts(lambda m, x: m.conv(x).relu(), conv=nn.Conv2d(3, 8, 3))
    return integer(fake_quantized(model, torch.randn(1, 3, 8, 8)))


@pytest.fixture(scope="module")
def comparison(graph: GraphModule) -> Comparison:
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    return compare("small", graph, qpc.compile(graph), [x], rounds=2, peers=installed_peers())


def test_every_runtime_is_measured_and_no_value_differs(comparison: Comparison) -> None:
    assert len(comparison.peers) == len(installed_peers())
    assert comparison.differing == 0
    assert comparison.macs == 6 * 6 * 8 * 3 * 9
    assert 0 < comparison.share < 1
    assert comparison.peak_gmac_s > 1
    assert all(peer.ratio.median > 0 for peer in comparison.peers)


class Answers:
    """A compiled model that gives what its graph gives, but for the first value."""

    target = Target.native()

    def __init__(self, graph: GraphModule) -> None:
        self._graph = graph

    def __call__(self, *inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        found = self._graph(*map(torch.from_numpy, inputs)).numpy().copy()
        found.ravel()[0] += 1.0
        return cast(np.ndarray[Any, Any], found)


def test_shares_are_of_what_all_threads_could_do(
    graph: GraphModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = SimpleNamespace(macs=1_000_000, run=lambda: None)
    blocks = {"QPC": [Block((10.0,) * 3, 12.0)] * 2, "peak": [Block((1.0,) * 3, 1.0)] * 2}
    monkeypatch.setattr("qpc.bench.compare.peak", lambda target: loop)
    monkeypatch.setattr("qpc.bench.compare.in_turns", lambda calls, rounds: dict(blocks))
    said: list[str] = []
    x = np.ones((2, 3, 8, 8), np.float32)
    model = cast(CompiledModel, Answers(graph))
    found = compare("n", graph, model, [x], rounds=2, threads=2, peers=[], told=said.append)
    macs = 2 * 6 * 6 * 8 * 3 * 9
    assert (found.macs, found.batch, found.threads, found.differing) == (macs, 2, 2, 1)
    shares = (found.share, found.share_cpu, found.cpu_share)
    assert shares == pytest.approx((macs / 1e6 / 2 / 10, macs / 1e6 / 12, 12 / 10 / 2))
    assert found.peak_gmac_s == pytest.approx(2.0)
    assert (found.times.median_ms, found.per_s) == pytest.approx((10.0, 200.0))
    assert said == [
        "getting the other runtimes ready",
        *("timing in turns", "counting samples in a second", "measuring accuracy"),
    ]


def test_it_is_json_and_names_the_fastest(comparison: Comparison) -> None:
    data = json.loads(json.dumps(comparison.to_json()))
    assert data["fastest"] == (comparison.fastest and comparison.fastest.name)
    assert replace(comparison, peers=()).to_json()["ratio_to_fastest"] is None


def test_all_are_compared_with_float(comparison: Comparison) -> None:
    assert comparison.saturates == Target.native().gains_by_safe_pairs
    if not comparison.peers:
        assert math.isnan(comparison.float_db)
        return
    assert 20 < comparison.float_db < 60
    for peer in comparison.peers:
        wanted = 100 if peer.name.startswith("PyTorch") else 20
        assert peer.float_db > wanted


def test_outputs_that_agree_exactly_are_null_in_json(comparison: Comparison) -> None:
    if not comparison.peers:
        pytest.skip("needs another runtime")
    same = replace(comparison.peers[0], agreement_db=math.inf)
    data = replace(comparison, peers=(same,)).to_json()
    assert data["peers"][0]["agreement_db"] is None
    json.dumps(data, allow_nan=False)


@dataclass(frozen=True)
class Part:
    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor | None


@pytest.mark.thorough
def test_instances_and_accuracy_are_measured_for_all(graph: GraphModule) -> None:
    pooled = integer(
        fake_quantized(
            Parts(lambda m, x: m.conv(x).mean((2, 3)), conv=nn.Conv2d(3, 8, 3)),
            torch.randn(1, 3, 8, 8),
        )
    )
    images = torch.randn(3, 3, 8, 8)
    labels = pooled(images).argmax(1)
    said: list[str] = []
    found = compare(
        "small",
        pooled,
        qpc.compile(pooled),
        [images[:1].numpy()],
        rounds=1,
        peers=["torch"] if "torch" in installed_peers() else [],
        instances=2,
        parts=[Part((images,), labels), Part((images,), None)],
        told=said.append,
    )
    assert (found.accuracy, found.samples, found.instances) == (1.0, 3, 2)
    assert found.per_s > 0
    assert found.times.p99_ms >= found.times.median_ms
    text = table(found)
    assert "2 instance(s)" in text
    assert "top-1 of 3 samples" in text
    assert "100.00%" in text
    assert said[-1] == "measuring accuracy"
    for peer in found.peers:
        assert peer.accuracy is not None
        assert peer.per_s > 0
