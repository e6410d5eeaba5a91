"""Shortcuts for the tests of passes that choose how weights are rounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from benchmarks.stress_networks import Stress, loud_images
from qpc.base import Pass, PassContext
from qpc.calls import arguments, qpc_ops
from qpc.facts import CORE_FORM, FAKE_QUANTIZED
from qpc.layers import integer_layer, outputs_first
from qpc.meta import attribute
from qpc.pipeline import Pipeline
from qpc.quant.config import LayerConfig, QuantConfig, WeightConfig
from qpc.quant.fixedpoint import along
from qpc.quant.pairs import are_safe
from qpc.recipes import post_training_quantization, to_integer
from tests.quantizing import min_max

FOUR_BITS = min_max(8, 4)
X = torch.randn(24, 4, 6, 6, generator=torch.Generator().manual_seed(1))


class Kinds(nn.Module):
    """A convolution of each kind, and a linear layer without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.transposed = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.one_dimensional = nn.Conv1d(6, 3, 3)
        self.linear = nn.Linear(3 * 62, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.grouped(x))))
        x = torch.relu(self.transposed(x)).flatten(2)
        y: Tensor = self.linear(self.one_dimensional(x).flatten(1))
        return y


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(x)))
        return y


def rounded(
    model: nn.Module, x: Tensor = X, config: QuantConfig = FOUR_BITS
) -> tuple[GraphModule, list[Tensor]]:
    """A fake-quantized graph, rounded to nearest, and batches."""
    batches = list(x.split(8))
    pipeline = post_training_quantization(batches, config, effort="fast")
    return pipeline.run(qpc.trace(model.eval(), x[:2])), batches


def run(gm: GraphModule, *passes: Pass) -> tuple[GraphModule, PassContext]:
    ctx = PassContext(thorough=True)
    known = frozenset({CORE_FORM, FAKE_QUANTIZED})
    return Pipeline(passes, known).run(gm, ctx), ctx


def relative_error(gm: GraphModule, model: nn.Module, x: Tensor = X) -> float:
    with torch.no_grad():
        wanted = model(x)
        return float((gm(x) - wanted).square().sum() / wanted.square().sum())


def differing_steps(gm: GraphModule, x: Tensor = X) -> float:
    """How far the integer graph is from the fake-quantized one, relative to the largest output."""
    integers = to_integer().run(gm)
    with torch.no_grad():
        made, wanted = integers(x), gm(x)
    return float((made - wanted).abs().max() / wanted.abs().max())


@cache
def stress() -> Stress:
    return loud_images()


@cache
def stressed() -> tuple[GraphModule, list[Tensor]]:
    """The stress network, rounded to nearest at 4 bits."""
    return rounded(stress().model, stress().calibration)


def check_pairs_stay_safe(rounding: Callable[[list[Tensor]], Pass]) -> None:
    """Where pairs are to be safe, they are, and one of the weights differs from the nearest."""
    config = QuantConfig(default=LayerConfig(weight=WeightConfig(pairs="safe")))
    gm, batches = rounded(Kinds(), config=config)
    better, _ = run(gm, rounding(batches))
    before, after = (integer_weights(to_integer().run(each)) for each in (gm, better))
    assert len(after) == 5
    assert all(map(are_safe, after))
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def integer_weights(gm: GraphModule) -> list[Tensor]:
    """The weights of all integer layers, [out, in/groups, *kernel]."""
    layers = [layer for node in gm.graph.nodes if (layer := integer_layer(node)) is not None]
    return [
        outputs_first(attribute(gm, str(each.weight.target)), each.output_axis, each.groups)
        for each in layers
    ]


def check_points_and_zeros(rounding: Callable[[list[Tensor]], Pass]) -> None:
    """Weights that a pass has rounded lie on grid points, and those of 0 stay 0."""
    model = Kinds()
    with torch.no_grad():
        model.linear.weight[:, ::2] = 0.0
    gm, batches = rounded(model)
    better, _ = run(gm, rounding(batches))
    node = next(
        n
        for n in better.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default)
        if str(n.args[0]) == "linear_weight"
    )
    weight = better.get_parameter("linear.weight").detach()
    points = weight / along(attribute(better, str(arguments(node)["scale"].target)), 2, 0)
    torch.testing.assert_close(points, points.round(), rtol=0, atol=1e-5)
    assert bool((weight[:, ::2] == 0.0).all())
    assert bool((weight[:, 1::2] != 0.0).any())
