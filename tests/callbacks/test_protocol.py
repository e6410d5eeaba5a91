from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.callbacks.protocol import Callbacks, checked_callbacks, flat
from qpc.compression.training import TrainContext
from qpc.errors import CompressionError, ConfigError
from qpc.testing import traced
from tests.compression.running import LOOP, PRUNE, evaluate, inputs, marks, network, run, train


class Heard(qpc.Callback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.values: dict[str, dict[int, float]] = {}

    def start(self, run: str, settings: Mapping[str, object]) -> None:
        self.told.append(("start", run, settings))

    def progress(self, text: str, done: int, total: int) -> None:
        self.told.append(("progress", text, done, total))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.values.setdefault(name, {})[step] = value

    def end(self, problem: str | None) -> None:
        self.told.append(("end", problem))


class Fails(Heard):
    """Raises when it hears of progress."""

    def progress(self, text: str, done: int, total: int) -> None:
        self.told.append(("progress",))
        raise ConnectionError("the server is gone")


def reporting(gm: GraphModule, context: TrainContext) -> None:
    train(gm, context)
    for epoch in range(context.epochs):
        context.report(epoch, loss=torch.tensor(1.0 / (1 + epoch)), rate=0.1)


def test_a_run_tells_its_start_progress_numbers_and_end() -> None:
    heard = Heard()
    result = run(LOOP, train=reporting, callbacks=[heard])
    (_, name, settings), *between, end = heard.told
    assert name == "compress"
    assert settings["rounds"]["at_most"] == 2
    assert end == ("end", None)
    assert {kind for kind, *_ in between} == {"progress"}
    dones = [done for _, _, done, _ in between]
    assert dones == sorted(dones)
    assert list(heard.values["judged/metric"].values()) == [row.metric for row in result.rows]
    assert list(heard.values["judged/macs"].values()) == [row.macs for row in result.rows]
    assert "judged/latency_ms" not in heard.values  # not measured
    assert heard.values["round-1.2-fine-tune/loss"] == pytest.approx({0: 1, 1: 1 / 2, 2: 1 / 3})
    assert heard.values["round-2.2-fine-tune/rate"] == {0: 0.1, 1: 0.1, 2: 0.1}


def test_a_run_that_goes_on_tells_the_numbers_of_its_past_again(tmp_path: Path) -> None:
    first, again = Heard(), Heard()
    run(LOOP, out=tmp_path / "run", callbacks=[first])
    run(LOOP, out=tmp_path / "run", callbacks=[again])
    assert again.values == first.values


def test_a_callback_that_fails_is_told_nothing_more_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fails, heard = Fails(), Heard()
    callbacks = Callbacks([fails, heard])
    with caplog.at_level(logging.WARNING, "qpc.callbacks.protocol"):
        callbacks.show("pruning", 1, 3)
        callbacks.show("training", 2, 3)
    assert fails.told == [("progress",)]
    assert heard.told == [("progress", "pruning", 1, 3), ("progress", "training", 2, 3)]
    (record,) = caplog.records
    assert record.getMessage() == (
        "the callback Fails is told nothing more, as it failed: ConnectionError: the server is gone"
    )
    assert record.exc_info is not None
    assert bool(callbacks)
    assert not Callbacks([])


def test_jobs_are_counted_from_1_and_each_has_its_numbers() -> None:
    heard = Heard()
    told = Callbacks([heard]).of_jobs(2, lambda name, result: ({name: result}, 5))
    told("a", 0.5)
    told("b", 2)
    assert heard.told == [("progress", "a", 1, 2), ("progress", "b", 2, 2)]
    assert heard.values == {"a": {5: 0.5}, "b": {5: 2.0}}


@pytest.mark.thorough
def test_a_callback_that_fails_is_left_out_with_a_warning_and_the_run_is_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fails, heard = Fails(), Heard()
    with caplog.at_level(logging.WARNING, "qpc.callbacks.protocol"):
        result = run(LOOP, callbacks=[fails, heard])
    assert marks(result) == marks(run(LOOP))
    assert [kind for kind, *_ in fails.told] == ["start", "progress"]
    assert heard.told[-1] == ("end", None)
    (record,) = [each for each in caplog.records if each.name == "qpc.callbacks.protocol"]
    assert record.getMessage() == (
        "the callback Fails is told nothing more, as it failed: ConnectionError: the server is gone"
    )
    assert record.exc_info is not None


def test_what_ends_a_run_early_is_told() -> None:
    heard = Heard()
    with pytest.raises(CompressionError):
        run({**LOOP, "budget": {"limit": 2.0}}, callbacks=[heard])
    assert heard.told[-1][1].startswith("CompressionError: ")
    stopped = Heard()

    def interrupted(gm: GraphModule) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(LOOP, evaluate=interrupted, callbacks=[stopped])
    assert stopped.told[-1] == ("end", "interrupted")


def test_ctrl_c_in_a_callback_ends_the_run() -> None:
    class Impatient(qpc.Callback):
        def progress(self, text: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(LOOP, callbacks=[Impatient()])


def test_sweeps_tell_each_combination() -> None:
    heard = Heard()
    recipe = {"rounds": {"at_most": 1, "steps": [PRUNE]}}
    path = "rounds.steps[0].allocation.amount"
    found = qpc.sweep(
        network(),
        recipe,
        {path: [0.3, 0.5]},
        evaluate=evaluate,
        batches=[inputs()],
        callbacks=[heard],
    )
    best = [each.best for each in found.runs]
    assert list(heard.values["best/macs"].values()) == [each.macs for each in best if each]
    assert heard.told[0][:2] == ("start", "sweep")
    assert heard.told[0][2]["changes"] == {path: [0.3, 0.5]}
    assert [done for kind, *_, done, _ in heard.told[1:-1]] == [1, 2]


def test_sensitivity_tells_each_part(tmp_path: Path) -> None:
    gm = traced(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(2, 4))
    batches = [torch.randn(8, 4, generator=torch.Generator().manual_seed(0))]
    asked: dict[str, Any] = {"bits": (4,), "fewer_channels": (), "folder": tmp_path / "found"}
    heard, again = Heard(), Heard()
    found = qpc.sensitivity(gm, batches, evaluate=lambda gm: 1.0, callbacks=[heard], **asked)
    told = {
        value
        for name in heard.values
        if name.endswith("sqnr_db")
        for value in heard.values[name].values()
    }
    assert told == {effect.sqnr_db for effect in found.effects if math.isfinite(effect.sqnr_db)}
    assert heard.values["float/metric"] == {0: 1.0}
    assert set(heard.values["weights at 4 bits/metric"].values()) == {1.0}
    qpc.sensitivity(gm, batches, evaluate=lambda gm: 1.0, callbacks=[again], **asked)
    assert again.values == heard.values


def test_numbers_that_are_not_known_or_none_are_left_out() -> None:
    heard = Heard()
    callbacks = Callbacks([heard])
    callbacks.metrics({"a": None, "b": math.inf, "c": 1}, 0)
    callbacks.metrics({"a": math.nan}, 1)
    assert heard.values == {"c": {0: 1.0}}


def test_what_is_no_callback_is_refused() -> None:
    with pytest.raises(ConfigError, match="callbacks must be a sequence, got Heard"):
        run(LOOP, callbacks=Heard())
    with pytest.raises(ConfigError, match=r"derived from qpc\.Callback, got the class Heard"):
        checked_callbacks([Heard])
    with pytest.raises(ConfigError, match=r"derived from qpc\.Callback, got int"):
        checked_callbacks([3])


def test_nested_settings_are_told_by_their_paths() -> None:
    nested = {"b": [{"c": 1}, 2], "a": {"x": "y", "empty": {}}}
    assert flat(nested) == {"a.empty": {}, "a.x": "y", "b[0].c": 1, "b[1]": 2}
