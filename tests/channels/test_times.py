"""The sizes of layers before and after pruning, as those who know times are asked for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.channels.groups import analyze_channels
from qpc.channels.masks import masked_units
from qpc.channels.times import TimeModel
from qpc.passes import CreateMasks, PropagateMasks, RemoveChannels
from qpc.pipeline import Pipeline
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import Random
from qpc.targets.times import LayerShape
from qpc.testing import traced


@dataclass(frozen=True)
class Asked:
    """Times are multiplications; remembers the layers."""

    layers: list[LayerShape] = field(default_factory=list)
    name: str = "multiplications"

    def time(self, layer: LayerShape) -> float:
        self.layers.append(layer)
        kernel = layer.kernel[0] * layer.kernel[1]
        return float(layer.positions * kernel * layer.inputs * layer.outputs // layer.groups)


def model_of(gm: GraphModule) -> TimeModel:
    return TimeModel(gm, analyze_channels(gm), Asked())


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv1d(4, 6, 3, 2, 1), (4, 9), LayerShape(4, 6, (1, 9), (1, 3), (1, 2), (0, 1))),
        (
            nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), groups=2),
            (4, 8, 7),
            LayerShape(4, 6, (8, 7), (3, 1), (2, 2), (1, 0), groups=2),
        ),
        (
            nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
            (4, 8, 8),
            LayerShape(4, 6, (8, 8), (2, 2), (2, 2), groups=2, transposed=True),
        ),
        (nn.Linear(5, 7), (3, 5), LayerShape(5, 7, (1, 3))),
    ],
)
def test_a_layer_is_described_by_its_sizes(
    layer: nn.Module, shape: tuple[int, ...], expected: LayerShape
) -> None:
    model = model_of(traced(nn.Sequential(layer), torch.randn(2, *shape)))
    model.time(model.kept())
    assert model.times.layers == [expected]  # type: ignore[attr-defined]  # it is `Asked`


def test_layers_of_three_axes_are_left_out() -> None:
    gm = traced(nn.Sequential(nn.Conv3d(2, 3, 2)), torch.randn(2, 2, 4, 4, 4))
    model = model_of(gm)
    assert model.time(model.kept()) == 0
    assert model.faster([]) == 1


class Mixed(nn.Module):
    """A stem, a depthwise, a grouped and a transposed layer, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3, groups=12)
        self.grouped, self.up = nn.Conv2d(12, 16, 1, groups=2), nn.ConvTranspose2d(16, 8, 2)
        self.head = nn.Linear(8 * 3 * 3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(torch.relu(self.grouped(torch.relu(self.depth(self.stem(x))))))
        y: Tensor = self.head(nn.functional.adaptive_avg_pool2d(x, 3).flatten(1))
        return y


@pytest.mark.thorough
def test_the_time_without_units_is_that_of_the_pruned_graph() -> None:
    gm = traced(Mixed(), torch.randn(2, 3, 9, 9))
    analysis = analyze_channels(gm)
    model = TimeModel(gm, analysis, Asked())
    for seed in range(4):
        passes = (CreateMasks(Random(seed), Uniform(0.2 + 0.2 * seed)), PropagateMasks())
        masked = Pipeline(passes).run(gm)
        removed = masked_units(masked, analysis)
        pruned = Pipeline((RemoveChannels(),), RemoveChannels.requires).run(masked)
        assert model.time(model.kept(removed)) == model_of(pruned).time(model_of(pruned).kept())
        assert model.faster(removed) > 1


def test_a_group_touches_the_layers_that_make_and_read_its_channels() -> None:
    gm = traced(Mixed(), torch.randn(2, 3, 9, 9))
    analysis = analyze_channels(gm)
    model = TimeModel(gm, analysis, Asked())
    group = analysis.group_of("up.weight", 1)
    assert group is not None
    assert model.touched_by([unit.atom for unit in group.units]) == (3, 4)
