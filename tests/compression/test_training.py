from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, symbolic_trace

import qpc
from qpc.compression.step import Place, StepContext
from qpc.compression.steps import FineTune
from qpc.compression.training import TrainContext, seeded, trained
from qpc.errors import CompressionError
from qpc.passes import MaskWeights
from qpc.pruning.weight_masks import weight_mask
from qpc.pruning.weight_rules import Ratio
from qpc.testing import traced
from tests.compression.running import inputs, network, train


def norms() -> GraphModule:
    return traced(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)), inputs())


def context(function: Any) -> StepContext:
    return StepContext(
        Place("start.1-fine-tune", "start"),
        7,
        batches=None,
        train=function,
        loss=None,
        teacher=lambda: traced(network(), inputs()),
        baseline=lambda heads: pytest.fail("it is not asked"),
    )


def after(function: Callable[[GraphModule, TrainContext], Any], gm: GraphModule) -> GraphModule:
    return trained(gm, FineTune(epochs=2, learning_rate=0.5, options={"x": 1}), context(function))


def test_a_function_is_told_what_the_recipe_says() -> None:
    seen: list[TrainContext] = []

    def look(gm: GraphModule, told: TrainContext) -> None:
        seen.append(told)

    after(look, norms())
    (told,) = seen
    assert (told.epochs, told.learning_rate, told.options) == (2, 0.5, {"x": 1})
    assert (told.place.name, told.seed, told.world.size) == ("start.1-fine-tune", 7, 1)
    assert told.distillation(norms()) is None


def test_the_graph_that_is_returned_counts_and_the_given_one_is_left_alone() -> None:
    gm = traced(network(), inputs())
    before = qpc.fingerprint(gm)

    def changed(graph: GraphModule, told: TrainContext) -> GraphModule:
        with torch.no_grad():
            next(graph.parameters()).add_(1)
        return graph

    assert qpc.fingerprint(after(changed, gm)) != before
    assert qpc.fingerprint(gm) == before


def test_masked_weights_stay_zero() -> None:
    gm = qpc.Pipeline((MaskWeights(Ratio(0.5)),)).run(traced(network(), inputs()))
    result = after(train, gm)
    weight, mask = result.get_parameter("0.weight"), weight_mask(result, "0.weight")
    assert mask is not None
    assert not weight[~mask].any()
    assert not torch.equal(weight, gm.get_parameter("0.weight"))


def leaves_training(gm: GraphModule, told: TrainContext) -> None:
    qpc.set_training(gm)


def leaves_eval_flags_only(gm: GraphModule, told: TrainContext) -> None:
    qpc.set_training(gm)
    gm.eval()


def breaks_core_form(gm: GraphModule, told: TrainContext) -> GraphModule:
    return symbolic_trace(nn.Sequential(nn.Linear(6, 4)))


def diverges(gm: GraphModule, told: TrainContext) -> None:
    next(gm.parameters()).data.fill_(torch.nan)


def returns_a_loss(gm: GraphModule, told: TrainContext) -> float:
    return 0.3


def returns_another_graph(gm: GraphModule, told: TrainContext) -> GraphModule:
    class Renamed(nn.Module):
        def forward(self, renamed: torch.Tensor) -> torch.Tensor:
            return renamed + 1

    return traced(Renamed(), inputs())


@pytest.mark.parametrize(
    ("function", "problem", "fix"),
    [
        (leaves_training, "left batch_norm in training mode", "end with qpc.set_training"),
        (leaves_eval_flags_only, "left batch_norm in training mode", "end with qpc.set_tra"),
        (breaks_core_form, "left a graph that is not in core form", "change weights, not the"),
        (diverges, r"left values that are no numbers in '0\.", "lower the learning rate"),
        (returns_a_loss, "returned float, not a graph", "train the graph in place and return"),
        (returns_another_graph, "left a graph with other inputs", "train the graph that it"),
    ],
)
def test_what_training_must_not_leave_is_told(function: Any, problem: str, fix: str) -> None:
    with pytest.raises(CompressionError, match=f"the training function {problem}") as error:
        after(function, norms())
    assert "(in 'start.1-fine-tune')" in error.value.what
    assert str(error.value.fix).startswith(fix)


def test_a_graph_that_was_rounded_stays_so() -> None:
    gm = traced(network(), inputs())
    rounded = qpc.prepare_qat(gm, [inputs()])
    with pytest.raises(CompressionError, match="left a graph that is no longer rounded"):
        after(lambda graph, told: gm, rounded)


def test_a_teacher_teaches() -> None:
    settings = FineTune.model_validate({"distil": {"logits": 2.0, "temperature": 3.0}})
    terms: list[list[str]] = []

    def learn(gm: GraphModule, told: TrainContext) -> None:
        teacher = told.distillation(gm)
        assert teacher is not None
        outputs, loss = teacher(inputs())
        assert torch.equal(outputs, gm(inputs()))
        assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6), "it is its own teacher here"
        terms.append(list(teacher.terms))

    trained(traced(network(), inputs()), settings, context(learn))
    assert terms == [["logits"]]


def test_a_seed_holds_for_a_while() -> None:
    with seeded(3):
        first = torch.rand(2)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)
