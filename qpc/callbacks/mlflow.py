"""Runs in MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping

from qpc.callbacks.protocol import Callback, flat
from qpc.errors import MissingDependencyError
from qpc.installing import install_line

_LONGEST_PARAMETER, _MOST_PARAMETERS = 6000, 100  # characters, and in one call: MLflow's limits


class MLflow(Callback):
    """Records a run: settings as parameters, numbers as metrics, its end as status.

    experiment: its name, made if it is not there. uri: of the tracking server or store, by default
    of the one that MLflow is set to. The package `mlflow-skinny` will do for servers; for a local
    database such as "sqlite:///runs.db" install `mlflow`.

    Raises MissingDependencyError without either package.
    """

    def __init__(self, experiment: str = "qpc", *, uri: str | None = None) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        except ImportError as e:
            raise MissingDependencyError(
                f"MLflow cannot be imported: {e}", fix=install_line("mlflow")
            ) from e
        self._client, self._experiment = MlflowClient(uri), experiment
        self._metric, self._param = Metric, Param
        self._run = ""

    def start(self, run: str, settings: Mapping[str, object]) -> None:
        known = self._client.get_experiment_by_name(self._experiment)
        place = known.experiment_id if known else self._client.create_experiment(self._experiment)
        self._run = self._client.create_run(place, run_name=run).info.run_id
        told = {_allowed(name): str(value) for name, value in flat(settings).items()}
        params = [self._param(name, value[:_LONGEST_PARAMETER]) for name, value in told.items()]
        for first in range(0, len(params), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=params[first : first + _MOST_PARAMETERS])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())  # milliseconds
        known = [self._metric(_allowed(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=known)

    def end(self, problem: str | None) -> None:
        if problem is not None:
            self._client.set_tag(self._run, "problem", problem)
        status = {None: "FINISHED", "interrupted": "KILLED"}.get(problem, "FAILED")
        self._client.set_terminated(self._run, status)


def _allowed(name: str) -> str:
    """A name without the characters that MLflow refuses, brackets among them."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "." for c in name).replace("..", ".")
