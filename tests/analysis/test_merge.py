"""Calibrating shards and merging equals calibrating on everything, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc import recipes
from qpc.errors import CalibrationError
from qpc.facts import CORE_FORM, OBSERVED
from qpc.passes import Calibrate
from qpc.pipeline import Pipeline
from qpc.quant.config import ActivationConfig, LayerConfig, QuantConfig
from qpc.quant.observers import MSE, ActivationObserver, Entropy, MinMax, MovingAverage, Percentile

DATA = [torch.randn(4, 2, 8, 8) for _ in range(4)]


def observed(observer: ActivationObserver) -> GraphModule:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
    config = QuantConfig(default=LayerConfig(activation=ActivationConfig(observer=observer)))
    return recipes.prepare(config).run(qpc.trace(model, DATA[0]))


def calibrate(gm: GraphModule, data: list[Tensor]) -> GraphModule:
    return Pipeline((Calibrate(data),), frozenset({CORE_FORM, OBSERVED})).run(gm)


@pytest.mark.parametrize(
    "observer", [MinMax(), MovingAverage(), Percentile(), MSE(), Entropy()], ids=lambda o: o.kind
)
def test_shards_merge_to_the_whole(observer: ActivationObserver) -> None:
    gm = observed(observer)
    shards = [calibrate(gm, DATA[:1]), calibrate(gm, DATA[1:3]), calibrate(gm, DATA[3:])]
    merged = qpc.merge_calibration(*shards)
    assert qpc.fingerprint(merged) == qpc.fingerprint(calibrate(gm, DATA))


def test_the_shards_stay_as_they_are() -> None:
    gm = observed(MinMax())
    first, second = calibrate(gm, DATA[:1]), calibrate(gm, DATA[1:])
    before = qpc.fingerprint(first)
    qpc.merge_calibration(first, second)
    assert qpc.fingerprint(first) == before


def test_buffers_that_no_state_dictionary_has_stay_so() -> None:
    class Shifted(nn.Module):
        shift: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)
            self.register_buffer("shift", torch.ones(1), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x)) + self.shift

    gm = recipes.prepare().run(qpc.trace(Shifted(), DATA[0]))
    merged = qpc.merge_calibration(calibrate(gm, DATA[:1]), calibrate(gm, DATA[1:]))
    assert "shift" in dict(merged.named_buffers())
    assert "shift" not in merged.state_dict()


def test_refuses_graphs_that_differ() -> None:
    first = calibrate(observed(MinMax()), DATA)
    other = calibrate(recipes.prepare().run(qpc.trace(nn.Linear(8, 2), DATA[0])), DATA)
    with pytest.raises(CalibrationError, match="graph 1 is not a copy of graph 0"):
        qpc.merge_calibration(first, other)
