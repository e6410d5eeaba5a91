"""Grids that follow their values: which do, from where, and what stays together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.calls import arguments, qpc_ops
from qpc.errors import ConfigError
from qpc.passes import FollowRanges, LearnGrids
from qpc.pipeline import Pipeline
from qpc.testing import check_pass, randomized, traced
from tests.quantizing import fake_quantized, min_max

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Meeting(nn.Module):
    """Two values that meet in a concat, one of them resized."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [nn.functional.interpolate(self.a(x), scale_factor=2.0, mode="bilinear")]
        parts.append(self.b(nn.functional.interpolate(x, scale_factor=2.0)))
        y: Tensor = self.c(torch.cat(parts, 1))
        return y


def followed(pass_: FollowRanges, model: nn.Module | None = None) -> GraphModule:
    return check_pass(pass_, fake_quantized(model or nn.Conv2d(3, 4, 1), X), X, exact=True)


def ranges(gm: GraphModule) -> set[str]:
    return {name for name, _ in gm.named_buffers() if name.endswith(".range")}


def test_ranges_move_in_training_and_stay_in_inference() -> None:
    gm = followed(FollowRanges(decay=0.5))
    before = gm.get_buffer("quantizers.input_1.range").clone()
    gm(2 * X)
    assert torch.equal(gm.get_buffer("quantizers.input_1.range"), before)
    qpc.set_training(gm)(2 * X)
    expected = 0.5 * before.flatten() + torch.stack([X.min(), X.max()])
    torch.testing.assert_close(gm.get_buffer("quantizers.input_1.range").flatten(), expected)


@pytest.mark.parametrize(
    ("pass_", "weights", "activations"),
    [(FollowRanges(activations=False), True, False), (FollowRanges(weights=False), False, True)],
)
def test_either_kind_may_be_left_alone(
    pass_: FollowRanges, weights: bool, activations: bool
) -> None:
    found = ranges(followed(pass_))
    assert any("_weight." in name for name in found) == weights
    assert any("_weight." not in name for name in found) == activations


def test_a_weight_has_its_own_range_at_every_step() -> None:
    gm = qpc.set_training(followed(FollowRanges()))
    with torch.no_grad():
        gm.get_parameter("weight").mul_(3)
    gm(X)
    expected = gm.get_parameter("weight").detach().abs().amax((1, 2, 3)) / 127
    torch.testing.assert_close(gm.get_buffer("quantizers.conv2d_weight.scale"), expected)


def test_values_that_meet_in_a_concat_have_one_grid_that_spans_them_all() -> None:
    gm = qpc.set_training(followed(FollowRanges(decay=0.0), Meeting()))
    calls = gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default)
    joint = [n for n in calls if arguments(n)["range"] and "cat" in str(n.args[0])] or [
        n for n in calls if arguments(n)["member"] > 0
    ]
    assert joint
    name = str(arguments(joint[0])["range"].target)
    sharing = [n for n in calls if str(arguments(n)["scale"].target) == name[:-5] + "scale"]
    assert (
        len(sharing) > len({arguments(n)["member"] for n in sharing if arguments(n)["range"]}) > 1
    )
    gm(X)
    held = gm.get_buffer(name)
    width = held[:, 1].max().clamp(min=0) - held[:, 0].min().clamp(max=0)
    torch.testing.assert_close(gm.get_buffer(name[:-5] + "scale")[0] * 255, width)


def test_two_forward_passes_may_come_before_one_backward_pass() -> None:
    gm = qpc.set_training(followed(FollowRanges()))
    (gm(X).sum() + gm(2 * X).sum()).backward()
    assert gm.get_parameter("weight").grad is not None


def test_a_learned_grid_is_left_alone() -> None:
    gm = Pipeline((LearnGrids(),), LearnGrids.requires).run(fake_quantized(nn.Conv2d(3, 4, 1), X))
    ctx = qpc.PassContext()
    result = Pipeline((FollowRanges(),), FollowRanges.requires).run(gm, ctx)
    assert not ranges(result)
    assert {reason for _, reason in map(_split, ctx.reports[-1].declines)} == {
        "its grid is learned"
    }


def test_one_step_for_weights_to_be_folded_is_left_alone() -> None:
    gm = traced(randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), X)
    ctx, config = qpc.PassContext(), min_max(per_channel=False)
    found = qpc.prepare_qat(gm, [X], config, batch_norm="simulated", learn=FollowRanges(), ctx=ctx)
    assert not any("_weight." in name for name in ranges(found))
    reasons = [_split(line)[1] for report in ctx.reports for line in report.declines]
    assert "its steps depend on a batch norm that is folded later" in reasons


def test_a_decay_of_one_would_never_move() -> None:
    with pytest.raises(ConfigError, match=r"decay must be below 1\.0"):
        FollowRanges(decay=1.0)


@pytest.mark.parametrize("name", ["activations", "weights", "synchronized"])
def test_settings_that_are_no_truth_values_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be True or False"):
        FollowRanges(**{name: "yes"})  # type: ignore[arg-type]  # the mistake on purpose


def _split(line: object) -> tuple[str, str]:
    where, _, why = str(line).partition(": ")
    return where, why
