"""The estimate of a layer that does not exist yet is what the compiler makes of it when it does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qpc
from qpc.backends.tvm.layer_times import layer_times
from qpc.channels.groups import analyze_channels
from qpc.channels.times import TimeModel
from qpc.errors import UnsupportedTargetError
from qpc.targets import Target
from qpc.targets.times import LayerShape
from qpc.testing import traced

TARGETS = ["x86-64-avx2", "x86-64-avx512-vnni"]


@pytest.mark.thorough
@pytest.mark.parametrize("target", TARGETS)
def test_the_estimate_is_that_of_the_plan(target: str) -> None:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 12, 3, stride=2, padding=1),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.Conv2d(12, 24, 3, padding=1),
        nn.Conv2d(24, 16, 1, groups=2),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10),
    )
    images = torch.randn(4, 3, 16, 16)
    gm = traced(nn.Sequential(*layers), images[:1])
    compiled = qpc.compile(qpc.quantize(gm, [images]), target)
    expected = sum(step.time for step in compiled.plan.functions[1].steps)
    model = TimeModel(gm, analyze_channels(gm), layer_times(Target.parse(target)))
    assert model.time(model.kept()) == pytest.approx(expected, rel=0.01)  # weights differ


@pytest.mark.parametrize("target", TARGETS)
def test_channels_that_fill_no_vector_gain_nothing(target: str) -> None:
    times = layer_times(Target.parse(target))
    lanes = Target.parse(target).vector_lanes
    full, part, less = (
        times.time(LayerShape(32, outputs, (1, 64))) for outputs in (2 * lanes, lanes + 1, lanes)
    )
    assert part == full > less > 0


def test_transposed_and_empty_layers_have_times() -> None:
    times = layer_times(Target.parse("x86-64-avx2"))
    up = LayerShape(16, 16, (8, 8), (2, 2), (2, 2), transposed=True)
    assert times.time(up) > 0
    assert times.time(LayerShape(0, 16, (8, 8))) == 0
    assert times.name == "the kernels for x86-64-avx2"


def test_a_target_without_kernels_is_refused() -> None:
    strange = Target("mine", "x86_64-unknown-linux-gnu", (), 4, "no-such-isa")
    with pytest.raises(UnsupportedTargetError, match="unknown isa 'no-such-isa'"):
        layer_times(strange)
