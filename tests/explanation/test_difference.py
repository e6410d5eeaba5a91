from __future__ import annotations

import json
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.explanation.difference import difference
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1


@dataclass(frozen=True)
class Part:
    inputs: tuple[Tensor, ...]
    labels: Tensor | None = None


def graph() -> torch.fx.GraphModule:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1))
    return qpc.trace(nn.Sequential(*layers), torch.zeros(1, 2, 6, 6))


X = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def test_a_model_does_not_differ_from_itself() -> None:
    found = difference(graph(), graph(), parts=[Part((X,))])
    assert found.equal
    assert (found.layers, found.same) == ((), 2)
    assert "outputs on 2 samples: 0 values differ, inf dB" in str(found)


def test_layers_grids_and_sizes_that_differ_are_named() -> None:
    gm = graph()
    smaller = qpc.prune(gm, L1(), Uniform(0.5))
    found = difference(gm, smaller, parts=[Part((X,))])
    assert not found.equal
    assert str(found.layers[0]).startswith("0: shape f32[N, 4, 4, 4] -> f32[N, 2, 4, 4]")
    assert found.totals["macs"] == (4 * 18 * 16 + 12 * 16, 2 * 18 * 16 + 6 * 16)
    int8 = qpc.quantize(gm, [X])
    other = qpc.quantize(gm, [X * 2])
    assert any("grid" in layer.what for layer in difference(int8, other).layers)
    assert json.loads(json.dumps(found.to_json()))["equal"] is False


def test_a_layer_that_is_missing_is_said_to_be() -> None:
    one = qpc.trace(nn.Sequential(nn.Conv2d(2, 4, 3)), torch.zeros(1, 2, 6, 6))
    assert "2: layer there -> missing" in str(difference(graph(), one))


def test_calls_of_compiled_models_are_timed_in_turns() -> None:
    model = qpc.compile(graph(), "reference")
    found = difference(None, None, runs=(model, model), compiled=(model, model))
    assert found.latency_ms is not None
    assert min(found.latency_ms) > 0
    assert "latency: " in str(found)


def test_models_are_scored_and_compared_in_the_order_in_which_they_are_given() -> None:
    def right(x: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0], [1.0, 0.0]])

    def half(x: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0], [0.0, 1.0]])

    parts = [Part((torch.zeros(2, 1),), torch.tensor([1, 0]))]
    runs = (cast(GraphModule, right), cast(GraphModule, half))  # whatever can be called
    score = difference(None, None, runs=runs, parts=parts).score
    assert score is not None
    assert (score.name, score.top1, score.agreement) == ("second", 0.5, 0.5)
    assert (score.differing, score.noise) == (2, 1.0)
