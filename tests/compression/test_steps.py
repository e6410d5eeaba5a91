from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.fx import GraphModule

import qpc
from qpc.channels.cost import cost
from qpc.compression.any_step import read_step
from qpc.compression.step import Phase, Place, Step, StepContext
from qpc.compression.steps import Mask, Prune, Qat, Quantize
from qpc.errors import PassError
from qpc.passes import FollowRanges, LearnGrids
from qpc.pruning.scored_groups import Baseline
from qpc.pruning.sparsity import sparsity_report
from qpc.recipes import post_training_quantization
from qpc.testing import traced
from tests.compression.running import PRUNE, QAT, inputs, network


@pytest.fixture(scope="module")
def gm() -> GraphModule:
    return traced(network(), inputs())


def place(phase: Phase = "start", number: int = 0, rounds: int = 1) -> Place:
    return Place("step", phase, number, rounds)


def at(gm: GraphModule, where: Place, **more: Any) -> StepContext:
    given = {"batches": lambda: [inputs()], "train": None, "loss": None, **more}
    return StepContext(
        where, 1, teacher=lambda: gm, baseline=lambda heads: Baseline.of(gm), **given
    )


def step(data: Any) -> Step:
    return read_step(data)


def test_pruning_outside_of_rounds_removes_the_whole_amount(gm: GraphModule) -> None:
    pruned = step(PRUNE).run(gm, at(gm, place()))
    assert cost(pruned).macs == cost(gm).macs / 2


def test_pruning_in_rounds_removes_a_part_of_the_first_model_in_each(gm: GraphModule) -> None:
    first = step(PRUNE).run(gm, at(gm, place("round", 1, 3)))
    second = step(PRUNE).run(first, at(gm, place("round", 2, 3)))
    shares = [cost(pruned).macs / cost(gm).macs for pruned in (first, second)]
    assert shares == pytest.approx([5 / 6, 4 / 6], abs=0.05)


@pytest.mark.parametrize(
    ("schedule", "amounts"),
    [
        (None, [0.125, 0.25, 0.375, 0.5]),
        ("linear", [0.125, 0.25, 0.375, 0.5]),
        ("cubic", [0.2890625, 0.4375, 0.4921875, 0.5]),
        ({"kind": "linear", "initial": 0.1}, [0.2, 0.3, 0.4, 0.5]),
        ({"kind": "linear", "steps": 2}, [0.25, 0.5, 0.5, 0.5]),
        ("one-shot", [0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_the_amount_grows_by_a_schedule(schedule: object, amounts: list[float]) -> None:
    pruning = step({**PRUNE, **({"schedule": schedule} if schedule else {})})
    assert isinstance(pruning, Prune)
    found = [pruning.amount_at(place("round", number, 4)) for number in range(1, 5)]
    assert found == pytest.approx(amounts)


def test_criteria_get_batches_and_losses_of_the_run(gm: GraphModule) -> None:
    pruning = step({**PRUNE, "criterion": "taylor"})
    assert pruning.required == {"batches", "loss"}
    context = at(gm, place(), loss=lambda output, batch: output.square().sum())
    assert cost(pruning.run(gm, context)).macs < cost(gm).macs
    assert step(PRUNE).required == frozenset()


def test_masks_grow_from_round_to_round(gm: GraphModule) -> None:
    masking = step({"kind": "mask", "rule": {"kind": "ratio", "fraction": 0.5}})
    assert isinstance(masking, Mask)
    half = masking.run(gm, at(gm, place("round", 1, 2)))
    full = masking.run(half, at(gm, place("round", 2, 2)))
    assert [sparsity_report(each).total.sparsity for each in (half, full)] == [0.25, 0.5]


def test_masks_of_blocks(gm: GraphModule) -> None:
    data = {
        "kind": "mask",
        "rule": {"kind": "ratio", "fraction": 0.5},
        "granularity": {"kind": "blocks", "outputs": 2, "inputs": 3},
    }
    masked = step(data).run(gm, at(gm, place()))
    assert sparsity_report(masked).total.sparsity == 0.5
    blocks = masked.get_parameter("0.weight").reshape(6, 2, 2, 3)
    assert all(count in (0, 6) for count in (blocks == 0).sum((1, 3)).flatten().tolist())


def test_quantization_is_that_of_the_front_door(gm: GraphModule) -> None:
    expected = post_training_quantization([inputs()]).run(gm)
    assert qpc.fingerprint(Quantize().run(gm, at(gm, place()))) == qpc.fingerprint(expected)
    with pytest.raises(PassError, match="would quantize a graph that is rounded to grids already"):
        Quantize().run(expected, at(gm, place()))


@pytest.mark.thorough
def test_the_effort_of_quantization_is_that_of_the_front_door(gm: GraphModule) -> None:
    config = {"default": {"weight": {"bits": 4}}}
    for effort in ("fast", "best"):
        rounding = step({"kind": "quantize", "config": config, "effort": effort})
        assert isinstance(rounding, Quantize)
        integers = qpc.convert(rounding.run(gm, at(gm, place())))
        expected = qpc.quantize(gm, [inputs()], rounding.config, effort=effort)
        assert qpc.fingerprint(integers) == qpc.fingerprint(expected)


def test_grids_that_are_not_learned_may_follow_their_values(gm: GraphModule) -> None:
    data = {**QAT, "learn": {"activations": False}, "follow": {"weights": False, "decay": 0.5}}
    training = step(data)
    assert isinstance(training, Qat)
    trained = training.run(gm, at(gm, place(), train=lambda graph, context: None))
    moving = LearnGrids(activations=False), FollowRanges(weights=False, decay=0.5)
    assert qpc.fingerprint(trained) == qpc.fingerprint(
        qpc.prepare_qat(gm, [inputs()], training.config, learn=moving)
    )


@pytest.mark.parametrize("learn", [True, False, {"weights": False}])
def test_qat_prepares_a_float_graph_and_only_trains_a_rounded_one(
    gm: GraphModule, learn: object
) -> None:
    seen: list[str] = []

    def train(graph: GraphModule, context: object) -> None:
        seen.append(qpc.fingerprint(graph))

    training = step({**QAT, "learn": learn})
    assert isinstance(training, Qat)
    once = training.run(gm, at(gm, place(), train=train))
    twice = training.run(once, at(gm, place(), train=train))
    assert seen[0] == seen[1] == qpc.fingerprint(twice)
    learned = sum(p.numel() == 1 for p in once.parameters())
    assert (learned > 0) == bool(learn)


def test_converted_graphs_hold_integers(gm: GraphModule) -> None:
    rounded = Quantize().run(gm, at(gm, place()))
    integers = step("convert").run(rounded, at(gm, place()))
    assert torch.equal(integers(inputs()), qpc.convert(rounded)(inputs()))
