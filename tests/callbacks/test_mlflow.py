from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from qpc.callbacks.mlflow import MLflow
from qpc.errors import CompressionError, MissingDependencyError
from tests.compression.running import LOOP, run


@pytest.mark.thorough
@pytest.mark.models
def test_runs_are_read_from_a_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # databases need the larger package
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = tmp_path.as_uri()
    result = run(LOOP, callbacks=[MLflow(uri=uri)])
    with pytest.raises(CompressionError):
        run({**LOOP, "budget": {"limit": 2.0}}, callbacks=[MLflow(uri=uri)])

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("qpc")
    runs = {each.info.status: each for each in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"FINISHED", "FAILED"}
    done = runs["FINISHED"]
    assert done.info.run_name == "compress"
    assert done.data.params["rounds.steps.0.kind"] == "prune"
    told = client.get_metric_history(done.info.run_id, "judged/metric")
    assert [(each.step, each.value) for each in told] == [
        (step, row.metric) for step, row in enumerate(result.rows)
    ]
    assert runs["FAILED"].data.tags["problem"].startswith("CompressionError: ")


class Server:
    """What a client of MLflow was told; entities are the tuples of their arguments."""

    def __init__(self, uri: str | None, known: str = "") -> None:
        self.uri, self.known = uri, known
        self.told: list[tuple[object, ...]] = []

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return SimpleNamespace(experiment_id="7") if name == self.known else None

    def create_experiment(self, name: str) -> str:
        self.told.append(("experiment", name))
        return "8"

    def create_run(self, experiment: str, *, run_name: str) -> SimpleNamespace:
        self.told.append(("run", experiment, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))

    def log_batch(self, run: str, **told: list[tuple[object, ...]]) -> None:
        self.told.append((run, told))

    def set_tag(self, run: str, name: str, value: str) -> None:
        self.told.append((run, name, value))

    def set_terminated(self, run: str, status: str) -> None:
        self.told.append((run, status))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> None:
    entities = ModuleType("mlflow.entities")
    package = ModuleType("mlflow")
    vars(entities).update(Metric=lambda *given: given, Param=lambda *given: given)
    vars(package).update(MlflowClient=Server, entities=entities)
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)


@pytest.mark.usefixtures("client")
def test_a_run_is_parameters_metrics_and_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 12.5)
    callback = MLflow("mine", uri="there")
    callback.start("compress", {"a": {"b[0]": 1}, "c": "x" * 7000})
    callback.metrics({"loss": 0.5, "x[1]": 2.0}, 3)
    callback.end(None)
    server = callback._client
    assert server.uri == "there"
    assert server.told == [
        ("experiment", "mine"),
        ("run", "8", "compress"),
        ("r", {"params": [("a.b.0.", "1"), ("c", "x" * 6000)]}),
        ("r", {"metrics": [("loss", 0.5, 12500, 3), ("x.1.", 2.0, 12500, 3)]}),
        ("r", "FINISHED"),
    ]


@pytest.mark.usefixtures("client")
def test_an_experiment_that_is_there_is_used_and_a_call_has_at_most_100_parameters() -> None:
    callback = MLflow()
    callback._client.known = "qpc"
    callback.start("sweep", {f"p{i}": i for i in range(101)})
    run, first, rest = callback._client.told
    assert run == ("run", "7", "sweep")
    assert (len(first[1]["params"]), rest[1]["params"]) == (100, [("p99", "99")])


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("problem", "status"), [("interrupted", "KILLED"), ("ValueError: x", "FAILED")]
)
def test_what_ended_a_run_is_a_tag(problem: str, status: str) -> None:
    callback = MLflow()
    callback._run = "r"
    callback.end(problem)
    assert callback._client.told == [("r", "problem", problem), ("r", status)]


def test_without_it_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingDependencyError, match="MLflow cannot be imported") as caught:
        MLflow()
    assert caught.value.fix == "pip install 'quantize-prune-compiler[mlflow]'"
