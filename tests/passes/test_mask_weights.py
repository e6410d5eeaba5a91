from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.base import PassContext
from qpc.errors import ConfigError, PassError
from qpc.facts import CORE_FORM
from qpc.masks import MASKED, set_mask
from qpc.passes import (
    Calibrate,
    ConvertToInteger,
    FakeQuantize,
    FoldBatchNorm,
    InsertObservers,
    MaskWeights,
    PropagateMasks,
    RemoveChannels,
    RemoveIdentities,
)
from qpc.pipeline import Pipeline
from qpc.pruning.granularity import Blocks, Elements, columns, kernels, rows
from qpc.pruning.sparsity import sparsity_report
from qpc.pruning.weight_layers import Scope
from qpc.pruning.weight_masks import WEIGHTS_MASKED, add_weight_mask, weight_mask
from qpc.pruning.weight_rules import Chosen, NOfM, Ratio, Threshold
from qpc.testing import check_pass, randomized, traced
from tests.quantizing import Parts, min_max

W = torch.tensor([[2.0, 0, 4, 1], [3, 5, 0, 2], [1, 0, 6, 0], [0, 3, 0, 7]])
X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))


def linear(weight: Tensor = W) -> GraphModule:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return traced(layer, torch.randn(2, weight.shape[1]))


def masked(pass_: MaskWeights, gm: GraphModule) -> GraphModule:
    return Pipeline((pass_,)).run(gm)


def weight_after(pass_: MaskWeights, weight: Tensor = W) -> list[list[float]]:
    found: list[list[float]] = masked(pass_, linear(weight)).get_parameter("weight").tolist()
    return found


def test_masked_weights_become_zero_and_the_graph_stays_as_it_is() -> None:
    gm = linear()
    expected = linear(W * (W >= 2))
    graph = """
        graph:
          %input_1: f32[N, 4] = input
          %linear: f32[N, 4] = aten.linear(%input_1, @weight)
          return %linear
    """
    result = check_pass(
        MaskWeights(Threshold(2)), expected, X, before=graph, after=graph, declines=()
    )
    assert torch.equal(result.get_parameter("weight"), W * (W >= 2))
    assert torch.equal(masked(MaskWeights(Threshold(2)), gm)(X), expected(X))


def test_the_worked_example_at_every_granularity() -> None:
    assert weight_after(MaskWeights(Threshold(2, equal_stays=False))) == [
        [0, 0, 4, 0],
        [3, 5, 0, 0],
        [0, 0, 6, 0],
        [0, 3, 0, 7],
    ]
    assert weight_after(MaskWeights(NOfM(1, 4))) == [
        [0, 0, 4, 0],
        [0, 5, 0, 0],
        [0, 0, 6, 0],
        [0, 0, 0, 7],
    ]
    assert weight_after(MaskWeights(Ratio(0.5), Blocks(2, 2))) == [
        [2, 0, 0, 0],
        [3, 5, 0, 0],
        [0, 0, 6, 0],
        [0, 0, 0, 7],
    ]
    assert weight_after(MaskWeights(Chosen((1,)), rows()))[1] == [0, 0, 0, 0]
    assert weight_after(MaskWeights(Ratio(0.25), columns("l1"))) == [
        [0, 0, 4, 1],
        [0, 5, 0, 2],
        [0, 0, 6, 0],
        [0, 3, 0, 7],
    ]


def test_removing_the_second_row_and_the_third_column_of_the_worked_example() -> None:
    layers = [nn.Linear(4, 4, bias=False) for _ in range(3)]
    with torch.no_grad():
        layers[1].weight.copy_(W)
    gm = traced(nn.Sequential(*layers), X)
    set_mask(gm, "0.weight", 0, torch.tensor([False, False, True, False]))
    set_mask(gm, "1.weight", 0, torch.tensor([False, True, False, False]))
    pruned = Pipeline((PropagateMasks(), RemoveChannels()), {CORE_FORM, MASKED}).run(gm)
    assert pruned.get_parameter("1.weight").tolist() == [[2, 0, 1], [1, 0, 0], [0, 3, 7]]


def test_whole_kernels_go() -> None:
    gm = traced(randomized(nn.Conv2d(4, 6, 3)), IMAGE)
    weight = masked(MaskWeights(Ratio(0.5), kernels()), gm).get_parameter("weight")
    zeros = (weight == 0).flatten(2).sum(2)
    assert sorted(zeros.flatten().tolist()) == [0] * 12 + [9] * 12


def test_a_transposed_convolution_is_masked_along_its_own_inputs() -> None:
    gm = traced(randomized(nn.ConvTranspose2d(4, 6, 3, groups=2)), IMAGE)
    weight = masked(MaskWeights(NOfM(1, 2)), gm).get_parameter("weight")  # weight[in, out/2, 3, 3]
    assert bool(((weight.reshape(2, 2, 3, 3, 3) != 0).sum(1) == 1).all())


def test_a_ratio_over_the_model_is_exact() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 8, 1))
    gm = masked(MaskWeights(Ratio(0.3, over="model")), traced(randomized(model), IMAGE))
    report = sparsity_report(gm)
    assert report.total.masked == report.total.zeros == round(0.3 * (4 * 6 * 9 + 6 * 8))


def test_only_the_layers_in_scope_are_masked() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    gm = masked(MaskWeights(Ratio(0.5), scope=Scope(module="1")), traced(randomized(model), X))
    assert [layer.masked for layer in sparsity_report(gm).layers] == [0, 8]


def test_masks_compose_and_a_ratio_counts_what_is_masked_already() -> None:
    rules = (MaskWeights(NOfM(2, 4)), MaskWeights(Ratio(0.5)), MaskWeights(Ratio(0.75)))
    weight = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 0, 0, 0, 0, 0]])
    gm = Pipeline(rules[:2]).run(linear(weight))
    mask = weight_mask(gm, "weight")
    assert mask is not None
    assert mask.int().tolist() == [[0, 0, 1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 1, 1, 0, 0]]
    gm = Pipeline(rules).run(linear(weight))
    assert gm.get_parameter("weight").tolist() == [[0, 0, 3, 4, 0, 0, 7, 8], [0] * 8]
    assert sparsity_report(gm).total.masked == 12


def test_a_mask_that_is_there_already_is_no_change_and_is_not_said_to_mask_nothing() -> None:
    rule = MaskWeights(Threshold(2))
    ctx = PassContext()
    gm = masked(rule, linear())
    again = Pipeline((rule,)).run(gm, ctx)
    (report,) = ctx.reports
    assert not report.changed
    assert report.declines == report.changes == ()
    gone = int((W < 2).sum())
    assert report.summary == f"{gone} of {W.numel()} weights are masked"
    assert torch.equal(again.get_parameter("weight"), gm.get_parameter("weight"))


def test_weights_that_have_moved_are_masked_again() -> None:
    gm = masked(MaskWeights(Threshold(2)), linear())
    gm.get_parameter("weight").data.fill_(5)
    again = Pipeline((MaskWeights(Threshold(2)),)).run(gm)
    assert torch.equal(again.get_parameter("weight"), 5.0 * (W >= 2))


def test_declines_layers_in_which_nothing_is_masked_and_computed_weights() -> None:
    model = Parts(
        lambda m, x: nn.functional.linear(m.depthwise(x), m.other.weight * 2),
        depthwise=nn.Conv2d(4, 4, 3, groups=4, padding=1),
        other=nn.Linear(6, 2),
    )
    gm = traced(randomized(model), IMAGE)
    check_pass(
        MaskWeights(NOfM(2, 4), Elements()),
        gm,
        IMAGE,
        declines=[
            "depthwise (conv2d): the rule masks no weight here",
            "linear: its weight mul is computed, not a parameter; "
            "run qpc.passes.FoldWeights() first to make it one",
        ],
    )


def test_a_scope_without_layers_is_an_error() -> None:
    with pytest.raises(PassError, match=r"no layer with a weight is in Scope\(module='nowhere'"):
        masked(MaskWeights(Ratio(0.5), scope=Scope(module="nowhere")), linear())


# --- masks and the other passes -------------------------------------------------------------------


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def zero_pattern(gm: GraphModule) -> list[list[bool]]:
    """Which weights are zero, layer by layer."""
    layers = sparsity_report(gm).layers
    return [(gm.state_dict()[layer.name] == 0).flatten().tolist() for layer in layers]


def test_folding_a_batch_norm_keeps_the_zeros_and_the_masks() -> None:
    gm = masked(MaskWeights(NOfM(2, 4)), traced(randomized(conv_net()), IMAGE))
    assert WEIGHTS_MASKED.check(gm) is None
    folded = Pipeline((FoldBatchNorm(), RemoveIdentities()), {CORE_FORM, WEIGHTS_MASKED}).run(gm)
    assert zero_pattern(folded) == zero_pattern(gm)
    assert sparsity_report(folded).total.masked == sparsity_report(gm).total.masked > 0


def test_masked_weights_are_zero_integers() -> None:
    gm = masked(MaskWeights(NOfM(2, 4)), traced(randomized(conv_net()), IMAGE))
    passes = (
        FoldBatchNorm(),
        RemoveIdentities(),
        InsertObservers(min_max()),
        Calibrate([(IMAGE,)]),
        FakeQuantize(),
    )
    fake = Pipeline(passes, {CORE_FORM, WEIGHTS_MASKED}).run(gm)
    assert sparsity_report(fake).total.masked == sparsity_report(gm).total.masked
    assume = {*ConvertToInteger.requires, WEIGHTS_MASKED}
    integer = Pipeline((ConvertToInteger(),), assume).run(fake)
    for float_zeros, integer_zeros in zip(zero_pattern(gm), zero_pattern(integer), strict=True):
        assert all(z for m, z in zip(float_zeros, integer_zeros, strict=True) if m)
    assert all(layer.op == "conv2d" for layer in sparsity_report(integer).layers[:2])


def test_removing_channels_takes_their_masks_along() -> None:
    gm = masked(MaskWeights(Ratio(0.4)), traced(randomized(conv_net()), IMAGE))
    set_mask(gm, "0.weight", 0, torch.arange(8) < 3)
    set_mask(gm, "4.weight", 0, torch.arange(8) == 7)
    assume = {CORE_FORM, MASKED, WEIGHTS_MASKED}
    pruned = Pipeline((PropagateMasks(), RemoveChannels()), assume).run(gm)
    before = weight_mask(gm, "4.weight")
    after = weight_mask(pruned, "4.weight")
    assert before is not None
    assert after is not None
    assert torch.equal(after, before[:7, 3:])
    shapes = [layer.shape for layer in sparsity_report(pruned).layers]
    assert shapes == [(5, 4, 3, 3), (7, 5, 3, 3), (3, 28)]
    add_weight_mask(pruned, "4.weight", after)  # fits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": 0.5}, "rule must be an object with a method `keep`, got 0.5"),
        (
            {"granularity": "rows"},
            "granularity must be an object with a method `scores`",
        ),
        ({"scope": "0"}, "scope must be a Scope, got str"),
    ],
)
def test_options_of_the_wrong_kind_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MaskWeights(**{"rule": Ratio(0.5)} | options)
