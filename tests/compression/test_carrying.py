"""Momentum goes on from one training step of a recipe to the next, through whatever is between."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.optim import Optimizer

import qpc
from qpc.compression.journal import GRAPHS
from qpc.compression.training import TrainContext
from qpc.errors import CompressionError
from tests.compression.running import LOOP, PRUNE, killed_at, marks, run

TUNE = {"kind": "fine-tune", "epochs": 2, "learning_rate": 0.05}
CARRY = {**TUNE, "carry_optimizer": True}
CARRIED: dict[str, Any] = {
    "start": [TUNE],
    "rounds": {"at_most": 2, "steps": [PRUNE, CARRY]},
    "finish": [CARRY],
}


class Watched:
    """Training functions that note what the optimizer knows when the first epoch begins."""

    def __init__(self, *classes: type[Optimizer]) -> None:
        self.seen: dict[str, dict[str, Tensor]] = {}
        self.left: dict[str, dict[str, Tensor]] = {}
        self._classes = list(classes)

    def train(self, gm: GraphModule, context: TrainContext) -> None:
        cls = self._classes.pop(0) if self._classes else torch.optim.SGD
        options = {"momentum": 0.9} if cls is torch.optim.SGD else {}
        optimizer = cls(gm.parameters(), lr=0.05, **options)  # type: ignore[call-arg]  # of any
        qpc.set_training(gm)
        for _ in context.each_epoch(gm, optimizer):
            self.seen.setdefault(context.place.name, _momentum(gm, optimizer))
            optimizer.zero_grad()
            gm(torch.ones(2, 6)).square().sum().backward()
            optimizer.step()
        qpc.set_training(gm, mode=False)
        self.left[context.place.name] = _momentum(gm, optimizer)


def _momentum(gm: GraphModule, optimizer: Optimizer) -> dict[str, Tensor]:
    known = ((name, optimizer.state[p]) for name, p in gm.named_parameters())
    return {name: s["momentum_buffer"].clone() for name, s in known if "momentum_buffer" in s}


def test_momentum_goes_on_without_the_channels_that_are_gone() -> None:
    watched = Watched()
    run({"start": [TUNE, PRUNE, CARRY]}, train=watched.train)
    assert watched.seen["start.1-fine-tune"] == {}
    before, after = watched.left["start.1-fine-tune"], watched.seen["start.3-fine-tune"]
    assert after.keys() == before.keys()
    width = len(after["0.bias"])
    assert 0 < width < len(before["0.bias"])
    assert torch.isin(after["0.bias"], before["0.bias"]).all()
    assert torch.equal(after["2.bias"], before["2.bias"])


def test_rounds_go_on_with_their_own_and_not_with_that_of_a_candidate() -> None:
    watched = Watched()
    run(CARRIED, train=watched.train)
    left, seen = watched.left, watched.seen
    for now, then in (
        ("finish-1.1-fine-tune", "round-1.2-fine-tune"),
        ("round-2.2-fine-tune", "round-1.2-fine-tune"),
        ("finish-2.1-fine-tune", "round-2.2-fine-tune"),
    ):
        assert torch.equal(seen[now]["2.bias"], left[then]["2.bias"])


def test_by_default_every_step_begins_anew_and_nothing_is_kept(tmp_path: Path) -> None:
    watched = Watched()
    run({**LOOP, "start": [TUNE]}, train=watched.train, out=tmp_path / "run")
    assert all(seen == {} for seen in watched.seen.values())
    assert not [name for name in os.listdir(tmp_path / "run" / GRAPHS) if "optimizer" in name]


def test_only_what_is_needed_is_kept(tmp_path: Path) -> None:
    run(CARRIED, out=tmp_path / "run")
    kept = [name for name in os.listdir(tmp_path / "run" / GRAPHS) if "optimizer" in name]
    assert sorted(kept) == ["finish-2.1-fine-tune.optimizer", "round-2.2-fine-tune.optimizer"]


def test_quantization_takes_momentum_of_weights_on_and_scales_begin_without() -> None:
    qat = {"kind": "qat", "epochs": 1, "learning_rate": 0.01, "carry_optimizer": True}
    watched = Watched()
    run({"start": [TUNE, qat]}, train=watched.train)
    assert watched.seen["start.2-qat"].keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert len(watched.left["start.2-qat"]) > 4


@pytest.mark.thorough
def test_a_run_that_carries_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    undisturbed, folder = marks(run(CARRIED)), tmp_path / "run"
    assert killed_at(150, lambda: run(CARRIED, out=folder))
    assert marks(run(CARRIED, out=folder)) == undisturbed
    assert undisturbed != marks(run({**CARRIED, "finish": [TUNE]}))


def test_another_class_of_optimizer_is_refused() -> None:
    watched = Watched(torch.optim.SGD, torch.optim.Adam)
    problem = (
        "the optimizer cannot be carried on: optimizer: the checkpoint holds the state of a "
        r"torch\.optim\.sgd\.SGD, got a torch\.optim\.adam\.Adam"
    )
    with pytest.raises(CompressionError, match=problem) as error:
        run({"start": [TUNE, CARRY]}, train=watched.train)
    assert error.value.fix == "train with optimizers of one class, or without carry_optimizer"


def test_a_function_without_each_epoch_cannot_carry() -> None:
    def blind(gm: GraphModule, context: TrainContext) -> None:
        pass

    problem = r"did not call context\.each_epoch \(in 'start\.1-fine-tune'\)"
    with pytest.raises(CompressionError, match=problem) as error:
        run({"start": [CARRY]}, train=blind)
    assert str(error.value.fix).startswith("train with: for epoch in context.each_epoch")
    assert run({"start": [TUNE]}, train=blind).best


def test_projections_of_a_distillation_are_trained_beside() -> None:
    distil = {"values": {"1": 1.0}, "method": "hint"}

    def taught(gm: GraphModule, context: TrainContext) -> None:
        teacher = context.distillation(gm)
        assert teacher is not None
        beside: dict[str, nn.Module] = {"distillation": teacher.projections}
        optimizer = torch.optim.SGD(teacher.parameters(), lr=0.01, momentum=0.9)
        for _ in context.each_epoch(gm, optimizer, modules=beside):
            optimizer.zero_grad()
            outputs, loss = teacher(torch.ones(2, 6))
            (loss + outputs.sum()).backward()
            optimizer.step()

    steps = [{**TUNE, "distil": distil}, PRUNE, {**CARRY, "distil": distil}]
    assert run({"start": steps}, train=taught).best
