from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from qpc.errors import ArtifactError, ConfigError, JobError
from qpc.parallel.in_process import InProcess
from qpc.parallel.journal import Journal
from qpc.parallel.run import run_jobs
from qpc.parallel.work import Plain
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
    with pytest.raises(JobError, match="the job 'job 3' failed 2 times: OSError: no luck") as caught:
        run_jobs(Unlucky(str(tmp_path), (3,), times=9), JOBS, attempts=2)
    assert "in __call__" in caught.value.full_text


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


def test_a_run_about_something_else_is_refused(tmp_path: Path) -> None:
    Journal.open(tmp_path / "run", {"graph": "1", "batches": "2"})
    with pytest.raises(ArtifactError, match="the run in '.*run' is about something else: batches changed") as caught:
        Journal.open(tmp_path / "run", {"graph": "1", "batches": "3"})
    assert "choose another folder" in str(caught.value.full_text)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ArtifactError, match=r"holds something else than a run: 'letter\.txt'"):
        Journal.open(tmp_path, {"graph": "1"})
    with pytest.raises(ArtifactError, match="cannot use '.*letter.txt' for a run: "):
        Journal.open(tmp_path / "letter.txt", {"graph": "1"})


def test_a_damaged_result_is_noticed(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "run", {"graph": "1"})
    journal.record("a", [1.5])
    assert journal.find("a") == ([1.5],)
    assert journal.find("b") is None
    (path,) = [p for p in (tmp_path / "run").iterdir() if p.name != "run.json"]
    path.write_text(path.read_text().replace("1.5", "2.5"))
    with pytest.raises(ArtifactError, match="is damaged: it does not match its own hash"):
        journal.find("a")


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="attempts must be at least 1, got 0"):
        run_jobs(product, JOBS, attempts=0)
    with pytest.raises(ConfigError, match="threads must be at least 1, got 0"):
        InProcess(threads=0)
