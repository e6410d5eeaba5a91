from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.compression.compress import BEST, PICTURE, RESULT, TABLE
from qpc.compression.source import read_recipe
from qpc.compression.training import TrainContext
from qpc.errors import CalibrationError, CompressionError, ConfigError
from tests.compression.running import (
    LOOP,
    PRUNE,
    QAT,
    TEXTBOOK,
    TUNE,
    inputs,
    marks,
    network,
    run,
    train,
)

ONE_STEP: dict[str, Any] = {"start": [PRUNE]}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the textbook's loop."""
    folder = tmp_path_factory.mktemp("runs") / "textbook"
    run(TEXTBOOK, out=folder)
    return folder


@pytest.mark.thorough
def test_the_loop_of_the_textbooks_ends_with_integers_in_the_budget(kept: Path) -> None:
    result = run(TEXTBOOK, out=kept)  # everything is done: it is only read
    names = ["baseline", "before the rounds", "round 1", "round 2"]
    assert [row.name for row in result.rows] == names
    assert result.best.name == "round 2"
    assert result.stopped == "all rounds are done: 2"
    assert result.reached is None
    called = {str(node.target) for node in result.model.graph.nodes}
    assert "qpc.linear.default" in called
    first, last = result.rows[0], result.best
    assert last.macs <= first.macs / 2 * 1.1
    assert last.bytes < first.bytes / 3
    assert last.metric > 0.6


def test_everything_is_kept_in_the_folder(kept: Path) -> None:
    result = run(TEXTBOOK, out=kept)
    assert result.folder == kept
    assert qpc.fingerprint(qpc.load_graph(kept / BEST)) == result.best.fingerprint
    assert json.loads((kept / RESULT).read_text()) == json.loads(json.dumps(result.plain()))
    assert (kept / TABLE).read_text() == result.table() + "\n"
    assert (kept / PICTURE).read_text().startswith("<svg")
    left = {path.name for path in (kept / "graphs").iterdir()}
    candidates = {f"candidate-{number}" for number in range(3)}
    assert candidates <= left
    assert "start.1-fine-tune" not in left, "what nothing needs is removed"


@pytest.mark.thorough
def test_the_recipe_that_was_kept_makes_the_same_again(kept: Path) -> None:
    recipe = read_recipe(kept / "recipe.yaml")
    assert recipe == qpc.Recipe.model_validate(TEXTBOOK)
    assert marks(run(recipe)) == marks(run(TEXTBOOK, out=kept))


def test_the_seed_decides() -> None:
    recipe = {"start": [{**TUNE, "epochs": 1}]}
    first, same, other = (run({**recipe, "seed": seed}) for seed in (1, 1, 2))
    assert marks(first) == marks(same)
    assert marks(first) != marks(other)


def test_the_random_numbers_of_the_caller_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run({"start": [{**TUNE, "epochs": 1}]})
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.thorough
def test_the_model_is_left_alone() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    qpc.compress(model, ONE_STEP, evaluate=lambda gm: 1.0, batches=[inputs()])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_graph_needs_no_inputs_to_be_traced_with() -> None:
    gm = qpc.trace(network(), inputs())
    result = qpc.compress(gm, ONE_STEP, evaluate=lambda gm: 1.0)
    assert result.best.macs < result.rows[0].macs


def test_inputs_are_taken_from_batches_that_go_on_with_labels() -> None:
    batch = (inputs(), torch.zeros(48, dtype=torch.int64))
    assert run(ONE_STEP, batches=[batch]).best.name == "result"


def test_a_generator_of_batches_is_read_once_and_kept() -> None:
    quantize = {"kind": "quantize", "config": QAT["config"]}
    generated = run({"finish": [quantize]}, batches=(x for x in inputs().split(12)))
    listed = run({"finish": [quantize]}, batches=lambda: inputs().split(12))
    assert marks(generated) == marks(listed)


# --- the first mistake is told, and nothing is lost -----------------------------------------------


@pytest.mark.parametrize(
    ("missing", "problem"),
    [
        ("train", "the step 'fine-tune' needs train="),
        ("batches", "the step 'qat' needs batches="),
        ("evaluate", "a run needs evaluate="),
    ],
)
def test_what_a_step_needs_must_be_there(missing: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        run({"start": [TUNE, QAT]}, **{missing: None})


def test_what_is_no_function_is_told() -> None:
    with pytest.raises(ConfigError, match="train must be a function, got int"):
        run(LOOP, train=3)


def test_what_is_no_recipe_or_model_is_told() -> None:
    with pytest.raises(ConfigError, match="recipe must be a Recipe, a mapping or the path"):
        run(3)
    with pytest.raises(ConfigError, match=r"model must be a torch\.nn\.Module, got str"):
        qpc.compress("model", LOOP, evaluate=len)  # type: ignore[arg-type]  # it is no module


@pytest.mark.parametrize("empty", [[], iter(()), list])
def test_without_calibration_batches_nothing_begins(empty: Any) -> None:
    with pytest.raises(CalibrationError, match="there are no calibration batches"):
        run(LOOP, batches=empty)


def test_a_model_without_inputs_cannot_be_traced() -> None:
    with pytest.raises(ConfigError, match="the model cannot be traced without inputs"):
        run(ONE_STEP, batches=None)


def test_a_target_that_the_steps_cannot_reach_is_told_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="macs: 10% cannot be reached: the steps leave 50%"):
        run({**ONE_STEP, "target": {"macs": "10%"}}, evaluate=pytest.fail)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (float("nan"), "evaluate returned nan for 'baseline'"),
        (float("inf"), "evaluate returned inf for 'baseline'"),
        (None, "evaluate returned NoneType for 'baseline', not a number"),
        ("0.9", "evaluate returned str for 'baseline', not a number"),
        (True, "evaluate returned bool for 'baseline', not a number"),
        (torch.ones(2), "evaluate returned Tensor for 'baseline', not a number"),
    ],
)
def test_an_evaluation_that_is_no_number_is_told(value: object, problem: str) -> None:
    with pytest.raises(CompressionError, match=problem):
        run(ONE_STEP, evaluate=lambda gm: value)


@pytest.mark.parametrize("value", [1, np.float32(1), torch.tensor(1.0), np.array([1.0])])
def test_numbers_of_all_kinds_are_numbers(value: object) -> None:
    assert run({"start": ["fold-batch-norm"]}, evaluate=lambda gm: value).best.metric == 1.0


def test_a_budget_that_is_broken_before_anything_is_done_is_told() -> None:
    with pytest.raises(CompressionError, match=r"before compression begins: accuracy is 0\.5, the"):
        run({**ONE_STEP, "budget": {"limit": 0.9}}, evaluate=lambda gm: 0.5)


def test_if_no_model_is_in_the_budget_the_nearest_is_told() -> None:
    values = iter([0.9, 0.5])
    with pytest.raises(CompressionError, match=r"accuracy of 'result' is 0\.5, the limit is 0\.8"):
        run({**ONE_STEP, "budget": {"lose": 0.1}}, evaluate=lambda gm: next(values))


@pytest.mark.thorough
def test_an_error_of_the_user_s_function_comes_through_and_nothing_is_lost(tmp_path: Path) -> None:
    def fails(gm: GraphModule, context: TrainContext) -> None:
        raise RuntimeError("out of memory")

    folder = tmp_path / "run"
    with pytest.raises(RuntimeError, match="out of memory"):
        run(LOOP, train=fails, out=folder)
    journal = json.loads((folder / "journal.json").read_text())
    done = [entry["step"] for entry in journal["steps"]]
    assert done == ["baseline", "candidate-0", "round-1.1-prune"]
    assert marks(run(LOOP, out=folder)) == marks(run(LOOP))


def test_another_recipe_does_not_go_on_with_a_run(kept: Path) -> None:
    changed = {**TEXTBOOK, "seed": 4, "start": [{**TUNE, "epochs": 1}]}
    with pytest.raises(ConfigError, match=r"another recipe: seed was 0, is 4; start\[0\]\.epochs"):
        run(changed, out=kept)


def test_another_model_does_not_go_on_with_a_run(kept: Path) -> None:
    model = network()
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(CompressionError, match="the model is not the one that the run in"):
        qpc.compress(
            model,
            TEXTBOOK,
            evaluate=lambda gm: pytest.fail("it is not asked"),
            train=train,
            batches=[inputs()],
            out=kept,
        )


def test_models_with_several_inputs_and_batches_by_name() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(6, 8), nn.Linear(6, 8)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            result: Tensor = torch.relu(self.left(a)) + self.right(b)
            return result

    batches = [{"a": inputs(), "b": inputs()}]
    finish = [{"kind": "quantize", "config": QAT["config"]}]
    for each in (batches, [(inputs(), inputs())]):
        result = qpc.compress(Two(), {"finish": finish}, evaluate=lambda gm: 1.0, batches=each)
        assert result.best.bytes <= result.rows[0].bytes / 2


def test_progress_is_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    run({"start": ["fold-batch-norm"]}, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("] ")[2] for line in lines][:2] == ["baseline", "fold-batch-norm"]


def test_latency_is_measured_and_decides(tmp_path: Path) -> None:
    times: Iterator[float] = itertools.count(10.0, -1.0)
    recipe = {**LOOP, "target": {"latency_ms": "85%"}}
    result = run(recipe, timer=lambda gm, options: next(times))
    assert [row.latency_ms for row in result.rows] == [None, 10.0, 9.0, 8.0]
    assert (result.stopped, result.reached) == ("the target is reached", True)
