from __future__ import annotations

import sys
from pathlib import Path

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


def test_without_it_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingDependencyError, match="MLflow cannot be imported") as caught:
        MLflow()
    assert caught.value.fix == "pip install 'quantize-prune-compiler[mlflow]'"
