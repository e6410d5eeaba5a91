from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qpc.errors import ConfigError, JobError
from qpc.parallel.in_process import InProcess
from qpc.parallel.processes import Processes
from qpc.parallel.run import run_jobs
from qpc.parallel.work import Plain
from tests.parallel.jobs import Endless, Unlucky, refuse

JOBS: dict[str, Plain] = {f"job {i}": i for i in range(12)}


@pytest.mark.thorough
def test_two_processes_of_which_one_is_killed_give_the_results_of_one(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    results = run_jobs(Unlucky(str(killed), (4,), how="die"), JOBS, executor=Processes(2))
    assert results == run_jobs(Unlucky(str(whole), ()), JOBS, executor=InProcess(threads=1))
    assert list(results) == list(JOBS)


@pytest.mark.slow
def test_the_job_that_kills_its_process_is_named_and_not_its_neighbours(tmp_path: Path) -> None:
    function = Unlucky(str(tmp_path), (4,), times=9, how="die")
    message = "the job 'job 4' failed 2 times: its process was lost"
    with pytest.raises(JobError, match=message) as caught:
        run_jobs(function, JOBS, executor=Processes(2), attempts=2)
    assert '__name__ == "__main__"' in caught.value.full_text


@pytest.mark.slow
def test_errors_come_back_as_they_are() -> None:
    with pytest.raises(ConfigError, match="1 is not allowed") as caught:
        run_jobs(refuse, {"a": 1}, executor=Processes(1))
    assert caught.value.fix == "leave it out"


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    def interrupt_when_busy() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_when_busy)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(Endless(str(tmp_path)), JOBS, executor=Processes(2))
    thread.join()
    children = [int(path.name) for path in tmp_path.iterdir()]
    assert len(children) == 2
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


@pytest.mark.slow
def test_processes_go_with_the_one_that_started_them_however_it_ends(tmp_path: Path) -> None:
    code = (
        "from qpc.parallel.processes import Processes\nfrom qpc.parallel.run import run_jobs\n"
        "from tests.parallel.jobs import Endless\n"
        f"run_jobs(Endless({str(tmp_path)!r}), dict(a=1, b=2), executor=Processes(2))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    while len(list(tmp_path.iterdir())) < 2:
        assert parent.poll() is None
    parent.kill()
    parent.wait()
    for path in tmp_path.iterdir():
        while Path(f"/proc/{path.name}").exists():
            pass  # ends in a moment, or the test does by its time limit


@pytest.mark.slow
def test_a_script_that_would_start_itself_again_is_told_at_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from qpc.parallel.processes import Processes\nfrom qpc.parallel.run import run_jobs\n"
        "from tests.parallel.jobs import product\n"
        "run_jobs(product, dict(a=1, b=2), executor=Processes(1))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "BackendError: other processes cannot be started" in done.stderr
    assert 'fix: a script must use them under if __name__ == "__main__":' in done.stderr


def test_what_cannot_be_sent_is_said() -> None:
    with pytest.raises(ConfigError, match="the jobs cannot be sent to other processes"):
        run_jobs(lambda _: 1, {"a": 1}, executor=Processes(1))
    with pytest.raises(ConfigError, match="workers must be at least 1, got 0"):
        Processes(0)
