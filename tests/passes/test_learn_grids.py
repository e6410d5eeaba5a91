"""Grids that training moves: which tensors learn, how fast, and what stays together."""

from __future__ import annotations

import math
import tempfile

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc import convert, load_graph, save_graph
from qpc.base import PassContext
from qpc.calls import arguments, qpc_ops
from qpc.errors import ConfigError
from qpc.meta import attribute
from qpc.passes import FollowRanges, LearnGrids
from qpc.pipeline import Pipeline
from qpc.quant.config import QuantConfig
from qpc.testing import check_pass
from tests.quantizing import fake_quantized, min_max

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A value that is added to itself after a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        z: Tensor = torch.relu(self.second(y) + y)
        return z


def learned(pass_: LearnGrids, config: QuantConfig | None = None) -> GraphModule:
    gm = fake_quantized(Residual(), X, config=config)
    return check_pass(pass_, gm, X, exact=True)


def grids(gm: GraphModule) -> set[str]:
    return {name for name, _ in gm.named_parameters() if name.startswith("quantizers")}


def test_scales_become_parameters_and_the_output_stays_bit_for_bit() -> None:
    found = grids(learned(LearnGrids()))
    assert found
    assert all(name.endswith(".scale") for name in found)
    assert any("weight" in name for name in found)


@pytest.mark.parametrize(
    ("pass_", "weights", "activations"),
    [
        (LearnGrids(activations=False), True, False),
        (LearnGrids(weights=False), False, True),
        (LearnGrids(weights=False, activations=False), False, False),
    ],
)
def test_either_kind_may_be_left_alone(pass_: LearnGrids, weights: bool, activations: bool) -> None:
    found = grids(learned(pass_))
    assert any("_weight." in name for name in found) == weights
    assert any("_weight." not in name for name in found) == activations


def test_zero_points_learn_if_asked_for_where_grids_are_not_symmetric() -> None:
    found = grids(learned(LearnGrids(zero_points=True)))
    assert any(name.endswith("zero_point") for name in found)
    assert not any(name.endswith("_weight.zero_point") for name in found)
    symmetric = grids(learned(LearnGrids(zero_points=True), min_max(symmetric=True)))
    assert not any(name.endswith("zero_point") for name in symmetric)


def test_gradients_are_divided_by_the_root_of_what_a_step_rounds() -> None:
    gm = learned(LearnGrids(), min_max(bits=4, weight_bits=4))
    calls = gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default)
    for node in calls:
        given = arguments(node)
        zero = int(attribute(gm, str(given["zero_point"].target)).max())
        if given["lo"] < 0:  # 3 or 4 inputs for each channel's step, of which 7 is the highest
            values = 3 if "first" in str(given["x"].target) else 4
        else:
            channels = 3 if given["x"].op == "placeholder" else 4
            values = channels * 36
        expected = 1 / math.sqrt(values * (given["hi"] - zero))
        assert given["gradient_scale"] == pytest.approx(expected)


def test_what_has_one_grid_goes_on_having_one() -> None:
    """Resizing rounds to the grid of its input: both rounding calls read the same parameter."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 2, 1)
    )
    gm = check_pass(LearnGrids(), fake_quantized(model, X), X, exact=True)
    calls = gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default)
    scales = [str(arguments(n)["scale"].target) for n in calls if arguments(n)["lo"] == 0]
    assert len(scales) == len(set(scales)) + 1


def test_settings_that_are_no_truth_values_are_refused() -> None:
    for name in ("activations", "weights", "zero_points"):
        with pytest.raises(ConfigError, match=f"{name} must be True or False"):
            LearnGrids(**{name: "yes"})  # type: ignore[arg-type]  # the mistake on purpose


class Meeting(nn.Module):
    """Two values that meet in a concat, and that something else reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)
        self.d = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        y: Tensor = self.c(torch.cat([a, b], 1)) + self.d(a + b)
        return y


@pytest.mark.thorough
def test_values_that_meet_in_a_concat_have_one_step_that_learns_for_all() -> None:
    gm = check_pass(LearnGrids(zero_points=True), fake_quantized(Meeting(), X), X, exact=True)
    calls = gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default)
    scales = [str(arguments(n)["scale"].target) for n in calls if arguments(n)["lo"] == 0]
    joint = max(set(scales), key=scales.count)
    assert scales.count(joint) == 3
    gm(X).square().sum().backward()
    with torch.no_grad():
        gm.get_parameter(joint).mul_(1.5)
    integers = convert(gm)
    assert torch.equal(integers(X), convert(integers_of(gm))(X))


def integers_of(gm: GraphModule) -> GraphModule:
    """As it is saved and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        save_graph(gm, f"{folder}/graph")
        return load_graph(f"{folder}/graph")


def test_grids_that_follow_their_values_are_left_alone() -> None:
    gm = Pipeline((FollowRanges(),), FollowRanges.requires).run(fake_quantized(Residual(), X))
    ctx = PassContext()
    result = Pipeline((LearnGrids(),), LearnGrids.requires).run(gm, ctx)
    assert not grids(result)
    assert all("its grid follows its values" in str(line) for line in ctx.reports[-1].declines)
