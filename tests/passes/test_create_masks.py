from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.base import PassContext
from qpc.channels.cost import cost
from qpc.channels.groups import ChannelAnalysis, Group, analyze_channels
from qpc.channels.masks import MASKS_PROPAGATED, masked_atoms
from qpc.errors import ConfigError, PassError
from qpc.facts import CORE_FORM
from qpc.masks import MASKED, masks
from qpc.passes import CreateMasks, PropagateMasks, RemoveChannels
from qpc.pipeline import Pipeline
from qpc.pruning.allocation import Counts, Global, Uniform
from qpc.pruning.criteria import Criterion, Judge
from qpc.pruning.magnitude import L1, BatchNormScale
from qpc.pruning.weight_layers import Scope
from qpc.targets.times import VectorTimes
from qpc.testing import check_pass, traced
from tests.pruning_oracle import masked_output
from tests.quantizing import converted, fake_quantized
from tests.small_models import Recurrent

X = torch.randn(2, 3, 6, 6)
PINNED = "2: 2 of 2 units must stay: it reaches the output of the graph"


def convs() -> GraphModule:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[0].get_parameter("weight").copy_(torch.tensor([2.0, 1, 4, 3])[:, None, None, None])
    return traced(model, X)


def marked(gm: GraphModule) -> dict[tuple[str, int], list[bool]]:
    return {(name, axis): mask.tolist() for name, axis, mask in masks(gm)}


def run(pass_: CreateMasks, gm: GraphModule | None = None) -> tuple[GraphModule, PassContext]:
    ctx = PassContext()
    return Pipeline((pass_,)).run(gm if gm is not None else convs(), ctx), ctx


def test_the_channels_of_lowest_score_are_masked_where_they_are_made() -> None:
    graph = """
        graph:
          %input_1: f32[N, 3, 6, 6] = input
          %conv2d: f32[N, 4, 6, 6] = aten.conv2d(%input_1, @0.weight, @0.bias)  # 0
          %relu: f32[N, 4, 6, 6] = aten.relu(%conv2d)  # 1
          %conv2d_1: f32[N, 2, 6, 6] = aten.conv2d(%relu, @2.weight, @2.bias)  # 2
          return %conv2d_1
    """
    result = check_pass(
        CreateMasks(L1(), Uniform(0.5)),
        convs(),
        X,
        before=graph,
        after=graph,
        exact=True,
        declines=[PINNED],
    )
    assert marked(result) == {
        ("0.weight", 0): [True, True, False, False],
        ("2.weight", 0): [False, False],
    }


def test_the_report_says_how_many_and_where() -> None:
    _, ctx = run(CreateMasks(L1(), Uniform(0.5)))
    assert ctx.reports[0].summary == "2 of 6 units of channels masked in 1 groups"
    _, ctx = run(CreateMasks(L1(), Uniform(0.5, of="macs", target=None)))
    text = "2 of 6 units of channels masked in 1 groups; 50.0% of the macs go"
    assert ctx.reports[0].summary == text
    _, ctx = run(CreateMasks(L1(), Uniform(0.5, of="macs", target=VectorTimes(8))))
    faster = r"; \d\.\d\d times as fast, by vectors of 8 channels"
    assert re.fullmatch(re.escape(text) + faster, ctx.reports[0].summary)


def test_masks_from_before_are_replaced() -> None:
    gm, _ = run(CreateMasks(L1(), Uniform(0.75)))
    again, _ = run(CreateMasks(L1(), Uniform(0.25)), gm)
    assert marked(again)["0.weight", 0] == [False, True, False, False]


def test_masked_channels_go_all_the_way() -> None:
    gm = convs()
    pipeline = Pipeline((CreateMasks(L1(), Uniform(0.5)), PropagateMasks(), RemoveChannels()))
    pruned = pipeline.run(gm)
    assert pruned.get_parameter("0.weight").flatten(1)[:, 0].tolist() == [4, 3]
    assert cost(pruned).macs == cost(gm).macs / 2


def test_nothing_to_remove_is_known_to_be_nothing() -> None:
    gm = convs()
    pipeline = Pipeline((CreateMasks(L1(), Uniform(0.0)), PropagateMasks(), RemoveChannels()))
    ctx = PassContext()
    pruned = pipeline.run(gm, ctx)
    assert cost(pruned) == cost(gm)
    assert marked(pruned) == {}
    assert ctx.reports[0].summary == "0 of 6 units of channels masked in 0 groups"


def test_layers_out_of_scope_are_left_and_named() -> None:
    allocation = Uniform(0.5, skip=(Scope(module="0"),))
    result = check_pass(
        CreateMasks(L1(), allocation),
        convs(),
        X,
        declines=[PINNED, "0: out of scope"],
    )
    assert not any(any(mask) for mask in marked(result).values())


def test_channels_that_the_criterion_cannot_judge_stay() -> None:
    layers = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1)]
    result = check_pass(
        CreateMasks(BatchNormScale(), Uniform(0.5)),
        traced(nn.Sequential(*layers), X),
        X,
        declines=[
            "2: the criterion cannot judge 6 units",
            "3: 2 of 2 units must stay: it reaches the output of the graph",
        ],
    )
    assert {key: sum(mask) for key, mask in marked(result).items()} == {
        ("0.weight", 0): 2,
        ("2.weight", 0): 0,
        ("3.weight", 0): 0,
    }


def test_an_amount_that_cannot_be_reached_is_reported() -> None:
    ctx = PassContext()
    Pipeline((CreateMasks(L1(), Uniform(0.9, of="macs")),)).run(convs(), ctx)
    assert [str(remark) for remark in ctx.reports[0].declines] == [PINNED]
    assert [str(remark) for remark in ctx.reports[0].warnings] == [
        "the model: 75.0% of its macs go, not 90.0%: no nearer with what may go in whole units"
    ]


def test_an_amount_of_which_nothing_comes_is_warned_of() -> None:
    for amount, expected in ((0.1, ["the model: nothing is pruned"]), (0.0, [])):
        ctx = PassContext()
        Pipeline((CreateMasks(L1(), Uniform(amount)),)).run(convs(), ctx)
        assert [str(remark)[:28] for remark in ctx.reports[0].warnings] == expected


def test_units_that_no_layer_makes_are_masked_on_the_first_axis_that_has_them() -> None:
    class WithConstants(nn.Module):
        """Two learned constant channels join those of the input."""

        def __init__(self) -> None:
            super().__init__()
            self.constants, self.conv = nn.Parameter(torch.randn(1, 2, 1, 1)), nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            both = torch.cat([x, self.constants.expand(x.shape[0], -1, 6, 6)], 1)
            y: Tensor = self.conv(both)
            return y

    gm, _ = run(CreateMasks(Same(), Uniform(0.5)), traced(WithConstants(), X))
    assert marked(gm) == {("constants", 1): [True, False], ("conv.weight", 0): [False, False]}


@dataclass(frozen=True)
class Same(Criterion):
    def scores(self, gm: GraphModule, analysis: ChannelAnalysis, group: Group) -> Tensor:
        return torch.zeros(len(group.prunable))


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.attention(x, x, x, need_weights=False)[0])
        return y


@pytest.mark.thorough
def test_heads_are_masked_whole_where_they_are_asked_for() -> None:
    x = torch.randn(2, 5, 8)
    gm, _ = run(
        CreateMasks(L1(), Uniform(0.5, only=Scope(pattern="attention*")), heads=("*attention",)),
        traced(SelfAttention(), x),
    )
    projection = torch.tensor(marked(gm)["attention.in_proj_weight", 0]).reshape(3, 4, 2)
    assert torch.equal(projection[..., 0], projection[..., 1])
    assert projection[0, :, 0].sum() == 2


def test_the_pruned_graph_is_the_masked_one_without_the_zeros() -> None:
    x = torch.randn(1, 3, 6, 6)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)]
    gm = traced(nn.Sequential(*layers), x)
    both = Pipeline((CreateMasks(L1(), Global(0.5)), PropagateMasks()))
    ready = both.run(gm)
    analysis = analyze_channels(ready)
    expected = masked_output(ready, analysis, masked_atoms(ready, analysis), [x])
    pruned = Pipeline(
        (RemoveChannels(),), assume=frozenset({CORE_FORM, MASKED, MASKS_PROPAGATED})
    ).run(ready)
    assert torch.allclose(pruned(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "inputs", "reason"),
    [
        (nn.ReLU(), X, "no layer makes any"),
        (nn.Sequential(nn.Flatten(1), nn.LayerNorm(108)), X, "no layer makes any"),
        (nn.Conv2d(3, 4, 1), X, "4 must stay: it reaches the output of the graph"),
        (
            Recurrent(head=False),
            torch.zeros(1, 5, 8),
            "8 must stay: it reaches the output of the graph",
        ),
    ],
)
def test_a_graph_in_which_nothing_may_go_is_an_error_with_the_reason(
    model: nn.Module, inputs: Tensor, reason: str
) -> None:
    with pytest.raises(PassError) as caught:
        run(CreateMasks(L1(), Uniform(0.5)), traced(model, inputs))
    assert caught.value.what == f"the graph has no channels to prune: {reason}"
    assert caught.value.fix == (
        "prune models in which convolution or linear layers follow each other"
    )


def test_an_integer_graph_is_refused_with_what_to_do() -> None:
    integer = converted(fake_quantized(nn.Conv2d(3, 4, 1), X))
    with pytest.raises(PassError, match="its layers are integer operators") as caught:
        run(CreateMasks(L1(), Uniform(0.5)), integer)
    assert caught.value.fix == "prune the float graph that qpc.trace returned, then quantize it"


class FirstIsLeast:
    """A criterion that derives from nothing."""

    def scores(self, gm: GraphModule, analysis: ChannelAnalysis, group: Group) -> list[float]:
        return [float(place) for place in range(len(group.prunable))]


def test_a_criterion_needs_nothing_but_its_method_scores() -> None:
    gm, _ = run(CreateMasks(cast(Judge, FirstIsLeast()), Uniform(0.5)))
    assert marked(gm)["0.weight", 0] == [True, True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": L1}, "criterion must be an object with a method `scores`, got the class L1"),
        ({"criterion": "l1"}, "criterion must be an object with a method `scores`, got str"),
        ({"allocation": 0.5}, "allocation must be an Allocation, got float"),
        ({"allocation": Uniform}, "allocation must be an Allocation, got the class Uniform"),
        ({"heads": 3}, "heads must be a pattern or a tuple of patterns, got 3"),
    ],
)
def test_options_of_the_wrong_kind_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CreateMasks(**{"criterion": L1(), "allocation": Uniform(0.5)} | options)
    assert str(caught.value) == message


def test_a_criterion_that_judges_nothing_is_an_error() -> None:
    with pytest.raises(PassError, match=r"BatchNormScale\(.*\) can judge no channel of this graph"):
        run(CreateMasks(BatchNormScale(), Uniform(0.5)))


def test_explicit_counts_are_kept() -> None:
    gm, _ = run(CreateMasks(L1(), Counts(channels={"0": 1})))
    assert marked(gm)["0.weight", 0] == [True, True, False, True]


def test_layers_that_make_no_channels_are_named() -> None:
    standardised = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    ctx = PassContext()
    gm = traced(nn.Sequential(standardised, nn.Linear(4, 2), nn.Linear(2, 2)), torch.randn(1, 3))
    Pipeline((CreateMasks(L1(), Uniform(0.5)),)).run(gm, ctx)
    declined = [str(line) for line in ctx.declined]
    assert (
        "0 (linear): its weight _weight_norm is computed, not a parameter; "
        "run qpc.passes.FoldWeights() first to make it one" in declined
    )
