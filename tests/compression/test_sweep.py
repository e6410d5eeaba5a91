from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch.fx import GraphModule

import qpc
from qpc.compression.sweep import Sweep
from qpc.errors import ArtifactError, ConfigError
from qpc.parallel.in_process import InProcess
from qpc.parallel.on_ray import Ray
from qpc.parallel.processes import Processes
from tests.compression.running import PRUNE, evaluate, inputs, network, train

RECIPE: dict[str, Any] = {
    "budget": {"limit": 0.1},
    "start": [PRUNE, {"kind": "fine-tune", "epochs": 1, "learning_rate": 0.1}],
}
AMOUNT = "start[0].allocation.amount"
TWELVE = {"start[0].criterion": ["l1", "l2"], AMOUNT: [0.25, 0.5, 0.75], "seed": [0, 1]}


def swept(changes: dict[str, Any], recipe: Any = None, **changed: Any) -> Sweep:
    gm = qpc.trace(network(), inputs())
    given: dict[str, Any] = {"evaluate": evaluate, "train": train, "batches": [inputs()]}
    return qpc.sweep(gm, recipe or RECIPE, changes, **{**given, **changed})


def marks(sweep: Sweep) -> list[tuple[object, ...]]:
    return [(str(run), run.rows, run.best, run.problem) for run in sweep.runs]


def test_every_combination_is_a_run_with_its_settings() -> None:
    found = swept({AMOUNT: [0.25, 0.75], "seed": [0, 1]})
    assert [dict(run.changed) for run in found.runs] == [
        {AMOUNT: amount, "seed": seed} for amount in (0.25, 0.75) for seed in (0, 1)
    ]
    costs = [run.best.macs for run in found.runs if run.best]
    assert costs[0] == costs[1] > costs[2] == costs[3]
    assert found.runs[0].rows != found.runs[1].rows
    assert len(str(found).splitlines()) == 5
    assert len(json.loads(found.to_json())["runs"]) == 4


def test_a_combination_is_what_compress_makes_of_the_recipe() -> None:
    (run,) = swept({AMOUNT: [0.5]}).runs
    gm = qpc.trace(network(), inputs())
    alone = qpc.compress(gm, RECIPE, evaluate=evaluate, train=train, batches=[inputs()])
    assert run.best == alone.best
    assert run.rows == alone.rows


def test_a_module_is_traced_with_the_first_batch_and_a_generator_is_read_once() -> None:
    given: dict[str, Any] = {"evaluate": evaluate, "train": train}
    batches = iter([inputs()])
    found = qpc.sweep(network(), RECIPE, {"seed": [0, 1]}, batches=batches, **given)
    assert marks(found) == marks(swept({"seed": [0, 1]}))


def test_a_run_that_ends_without_a_model_is_told_and_the_others_go_on() -> None:
    recipe = {**RECIPE, "budget": {"lose": 0.9}}
    found = swept({"budget.lose": [0.0, 0.9], AMOUNT: [0.9]}, recipe=recipe)
    assert [run.best is None for run in found.runs] == [True, False]
    assert "no model is inside of the budget" in str(found.runs[0].problem)
    assert "no model is inside of the budget" in found.table()


@pytest.mark.thorough
def test_it_goes_on_after_an_interruption(tmp_path: Path) -> None:
    calls = 0

    def interrupted(gm: GraphModule) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return evaluate(gm)

    changes = {AMOUNT: [0.25, 0.5]}
    with pytest.raises(KeyboardInterrupt):
        swept(changes, evaluate=interrupted, out=tmp_path / "out")
    found = swept(changes, evaluate=interrupted, out=tmp_path / "out")
    total = calls
    assert marks(found) == marks(swept(changes))
    assert marks(swept(changes, evaluate=interrupted, out=tmp_path / "out")) == marks(found)
    assert calls == total
    run = found.runs[0]
    assert run.folder is not None
    assert run.best is not None
    assert qpc.fingerprint(qpc.load_graph(run.folder / "best")) == run.best.fingerprint
    with pytest.raises(ArtifactError, match="is about something else: recipe changed"):
        swept(changes, recipe={**RECIPE, "seed": 5}, out=tmp_path / "out")


@pytest.mark.thorough
def test_wrong_paths_and_values_are_told_before_anything_runs() -> None:
    for path in (
        "start[7].criterion",
        "start[0][1]",
        "nothing.inside",
        "seed.x",
        "",
        "start[0].kind.x",
    ):
        with pytest.raises(ConfigError, match="the recipe has no setting"):
            swept({path: [1]})
    with pytest.raises(ConfigError, match=r"the recipe with seed='x': .*seed"):
        swept({"seed": ["x"]})
    with pytest.raises(ConfigError, match="the values of 'seed' must be a sequence, got 3"):
        swept({"seed": 3})
    with pytest.raises(ConfigError, match="changes must be a mapping from paths"):
        swept([1])  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigError, match="the model cannot be traced without inputs"):
        qpc.sweep(network(), RECIPE, {"seed": [0]}, evaluate=evaluate, train=train)


@dataclass(frozen=True)
class DiesOnce:
    """A metric that ends its process the first time."""

    folder: str

    def __call__(self, gm: GraphModule) -> float:
        try:
            os.close(os.open(Path(self.folder) / "dead", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return evaluate(gm)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray leaves files and processes to the collector
def test_twelve_runs_on_one_process_on_two_and_on_a_cluster_with_one_killed_are_the_same(
    tmp_path: Path,
) -> None:
    expected = marks(swept(TWELVE, executor=InProcess(threads=1)))
    assert len(expected) == 12
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    metric = DiesOnce(str(tmp_path / "a"))
    assert marks(swept(TWELVE, evaluate=metric, executor=Processes(2))) == expected
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    try:
        metric = DiesOnce(str(tmp_path / "b"))
        assert marks(swept(TWELVE, evaluate=metric, executor=Ray())) == expected
    finally:
        ray.shutdown()
    assert (tmp_path / "b" / "dead").exists()
