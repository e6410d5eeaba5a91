from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from qpc.errors import ArtifactError, ConfigError, JobError
from qpc.parallel.in_process import Here
from qpc.parallel.journal import Journal
from qpc.parallel.run import run_jobs
from qpc.parallel.work import Function, Plain
from tests.parallel.jobs import Unlucky, product, refuse

JOBS: dict[str, Plain] = {f"job {i}": i for i in range(12)}


def test_results_come_in_the_order_of_the_jobs() -> None:
    assert run_jobs(product, JOBS) == {name: product(i) for name, i in JOBS.items()}
    assert list(run_jobs(product, {"b": 2, "a": 1})) == ["b", "a"]
    assert run_jobs(product, {}) == {}


def test_a_job_that_fails_is_tried_again(tmp_path: Path) -> None:
    results = run_jobs(Unlucky(str(tmp_path), (3, 5), times=2), JOBS)
    assert results == run_jobs(product, JOBS)
    assert (tmp_path / "3").read_text() == "xxx"
    assert (tmp_path / "4").read_text() == "x"


def test_the_last_failure_names_the_job_and_shows_where(tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match="the job 'job 3' failed 2 times: OSError: no luck"
    ) as caught:
        run_jobs(Unlucky(str(tmp_path), (3,), times=9), JOBS, attempts=2)
    assert "in __call__" in caught.value.full_text
    assert "mend what it runs into" in caught.value.full_text


def test_what_is_wrong_for_good_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0 is not allowed"):
        run_jobs(refuse, JOBS)


def test_results_must_be_plain() -> None:
    with pytest.raises(ConfigError, match="the result of the job 'a' is not plain"):
        run_jobs(lambda _: math.nan, {"a": 1})
    assert run_jobs(lambda _: (1, 2), {"a": 1}) == {"a": [1, 2]}  # type: ignore[arg-type, return-value]  # on purpose


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    calls: list[Plain] = []

    def interrupted_at(last: int) -> Callable[[Plain], Plain]:
        def call(argument: Plain) -> Plain:
            calls.append(argument)
            if argument == last:
                raise KeyboardInterrupt
            return product(argument)

        return call

    def run(last: int) -> dict[str, Plain]:
        journal = Journal.open(tmp_path / "run", {"data": "1"})
        return run_jobs(interrupted_at(last), JOBS, journal=journal)

    with pytest.raises(KeyboardInterrupt):
        run(7)
    assert run(99) == run_jobs(product, JOBS)
    assert calls == [*range(8), *range(7, 12)]
    calls.clear()
    assert run(99) == run_jobs(product, JOBS)
    assert calls == []


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="attempts must be at least 1, got 0"):
        run_jobs(product, JOBS, attempts=0)


class Watched:
    """Does jobs here, and knows whether it is open."""

    def __init__(self) -> None:
        self.is_open = False

    def open(self, function: Function) -> Here:
        watched = self

        class Pool(Here):
            def __enter__(self) -> Self:
                watched.is_open = True
                return super().__enter__()

            def __exit__(self, *error: Any) -> None:
                watched.is_open = False
                super().__exit__(*error)

        return Pool(function, None)


def test_a_disk_that_is_full_closes_the_executor_too(tmp_path: Path) -> None:
    class Full(Journal):
        def record(self, job: str, result: Plain) -> None:
            raise ArtifactError("full")

    executor = Watched()
    Journal.open(tmp_path / "run", {})
    with pytest.raises(ArtifactError, match="full") as caught:
        run_jobs(product, JOBS, executor=executor, journal=Full(tmp_path / "run", {}))
    assert caught.value is not None  # and so are all frames, with what they hold
    assert not executor.is_open


def test_progress_is_shown_if_it_has_a_title(capsys: pytest.CaptureFixture[str]) -> None:
    run_jobs(product, JOBS)
    assert capsys.readouterr().out == ""
    assert run_jobs(product, JOBS, progress="working") == run_jobs(product, JOBS)
