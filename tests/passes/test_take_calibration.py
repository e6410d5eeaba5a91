"""One calibration, kept and merged over processes, gives what running the data again gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.errors import CalibrationError, ConfigError
from qpc.quant.config import ActivationConfig, LayerConfig, Override, QuantConfig, WeightConfig
from qpc.quant.observers import MSE, ActivationObserver, MinMax, MovingAverage, Percentile
from qpc.testing import randomized, traced

DATA = [torch.randn(4, 2, 8, 8) for _ in range(3)]


def model() -> GraphModule:
    layers = (nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU())
    torch.manual_seed(0)
    whole = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5))
    return traced(randomized(whole), DATA[0])


def observing(observer: ActivationObserver, **settings: object) -> QuantConfig:
    layer = LayerConfig(activation=ActivationConfig(observer=observer), **settings)  # type: ignore[arg-type]  # fields by name
    return QuantConfig(default=layer)


FOUR_BITS = QuantConfig(
    default=LayerConfig(weight=WeightConfig(bits=4)), overrides=(Override(module="0", use="float"),)
)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> GraphModule:
    """Made in two parts, as two processes would, of one model traced twice."""
    folder: Path = tmp_path_factory.mktemp("calibration")
    for name, shard in (("first", DATA[:1]), ("second", DATA[1:])):
        qpc.save_graph(qpc.calibrate(model(), shard), folder / name)
    return qpc.merge_calibration(*(qpc.load_graph(folder / n) for n in ("first", "second")))


@pytest.mark.parametrize(
    ("config", "effort"),
    [
        (QuantConfig(), "default"),
        (QuantConfig(), "fast"),
        (observing(MinMax()), "fast"),
        (observing(Percentile(percent=99.0)), "fast"),
        (FOUR_BITS, "default"),
    ],
)
def test_any_configuration_gives_the_same_integers(
    calibration: GraphModule, config: QuantConfig, effort: str
) -> None:
    gm = model()
    again = qpc.quantize(gm, DATA, config, effort=effort)
    taken = qpc.quantize(gm, iter(DATA), config, effort=effort, calibration=calibration)
    assert qpc.fingerprint(taken) == qpc.fingerprint(again)


def test_the_fast_effort_needs_no_data(calibration: GraphModule) -> None:
    made = qpc.quantize(model(), effort="fast", calibration=calibration)
    assert qpc.fingerprint(made) == qpc.fingerprint(qpc.quantize(model(), DATA, effort="fast"))


def test_the_default_effort_needs_some(calibration: GraphModule) -> None:
    with pytest.raises(ConfigError, match="a calibration holds no samples, on which") as caught:
        qpc.quantize(model(), calibration=calibration)
    assert 'effort="fast"' in str(caught.value.fix)


def test_the_best_effort_takes_none(calibration: GraphModule) -> None:
    with pytest.raises(ConfigError, match="calibrates many times, on graphs that it changes"):
        qpc.quantize(model(), DATA, effort="best", calibration=calibration)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (observing(MSE(), results="integer"), "did not watch the values of 6"),
        (observing(MovingAverage()), "what 'mse' kept of the values of input_1 does not suffice"),
    ],
)
def test_what_it_lacks_is_an_error(
    calibration: GraphModule, config: QuantConfig, message: str
) -> None:
    with pytest.raises(CalibrationError, match=message):
        qpc.quantize(model(), effort="fast", config=config, calibration=calibration)


def test_another_model_is_an_error(calibration: GraphModule) -> None:
    gm = model()
    with torch.no_grad():
        gm.get_parameter("6.bias").add_(1)
    with pytest.raises(CalibrationError, match=r"is of another model: '6\.bias' differs"):
        qpc.quantize(gm, effort="fast", calibration=calibration)
