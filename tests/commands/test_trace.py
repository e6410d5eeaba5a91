"""What `qpc trace` says of a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.conftest import answer, invoke

NETWORK = """
from torch import nn


def model():
    return nn.Sequential(nn.Linear(8, 3), nn.ReLU())
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("network.py").write_text(NETWORK)


def test_operators_and_sizes_are_counted_and_the_graph_is_shown_if_it_is_asked_for() -> None:
    words = ("trace", "network.py:model", "--input", "1x8", "--json")
    found, shown = answer(invoke(*words)), answer(invoke(*words, "--graph"))
    assert found | {"graph": shown["graph"]} == shown
    del found["qpc"]
    assert found == {
        "model": "network.py:model",
        "any_batch_size": True,
        "inputs": {"input": "f32[N, 8]"},
        "outputs": ["f32[N, 3]"],
        "operators": {"linear": 1, "relu": 1},
        "parameters": 27,
        "macs": 24,
        "graph": None,
    }
    assert "aten.relu(%linear)" in shown["graph"]


def test_it_says_the_same_in_words() -> None:
    lines = invoke("trace", "network.py:model", "--input", "1x8").stdout.splitlines()
    assert lines == [
        "network.py:model: captured, 2 operators, for any batch size",
        "inputs: input f32[N, 8]",
        "outputs: f32[N, 3]",
        "operators: 1 linear, 1 relu",
        "27 parameters, 24 MACs",
    ]
