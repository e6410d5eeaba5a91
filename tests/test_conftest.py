from __future__ import annotations

import random
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import LONG


@pytest.mark.parametrize("repetition", [1, 2])
def test_every_test_draws_the_same_random_numbers(repetition: int) -> None:
    drawn = (random.random(), np.random.random(), torch.rand(()).item())
    assert drawn == (0.8444218515250481, 0.5488135039273248, 0.49625658988952637), repetition


def test_torch_uses_one_thread() -> None:
    assert torch.get_num_threads() == 1


def test_the_network_is_out_of_reach() -> None:
    with (
        socket.socket() as connection,
        pytest.raises(RuntimeError, match=r"a test tried to reach .*: tests use no network"),
    ):
        connection.connect(("127.0.0.1", 9))


def test_processes_of_this_machine_may_talk(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(address)
        server.listen()
        client.connect(address)


def test_long_tests_come_first_and_the_others_keep_their_order(
    request: pytest.FixtureRequest,
) -> None:
    order = [item.nodeid.startswith(LONG) for item in request.session.items]
    assert order == sorted(order, reverse=True)


def test_of_the_cases_of_a_test_one_of_every_so_many_runs_by_default(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeini("[pytest]\nmarkers =\n thorough: takes seconds\n every(n): one of n")
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text(encoding="utf-8"))
    cases = """
import pytest

@pytest.mark.every(3)
@pytest.mark.parametrize("n", range(7))
def test_cases(n): ...

@pytest.mark.every(2)
@pytest.mark.parametrize("n", range(2))
def test_others(n): ...
"""
    pytester.makepyfile(cases)
    pytester.runpytest_inprocess("-m", "not thorough").assert_outcomes(passed=4, deselected=5)
    pytester.runpytest_inprocess().assert_outcomes(passed=9)


PLAIN_TEST = """
def test_text(golden):
    golden("text", "one\\ntwo")
"""


def test_golden_files_are_written_on_request_then_compared(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    conftest = Path(__file__).with_name("conftest.py").read_text(encoding="utf-8")
    pytester.makeconftest(conftest)
    pytester.makepyfile(PLAIN_TEST)
    folder = pytester.mkdir("golden")

    missing = pytester.runpytest_inprocess()
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(["*no golden file text.txt: write it with*--update-golden*"])

    pytester.runpytest_inprocess("--update-golden").assert_outcomes(passed=1)
    assert (folder / "text.txt").read_text() == "one\ntwo\n"
    pytester.runpytest_inprocess().assert_outcomes(passed=1)

    (folder / "text.txt").write_text("one\nthree\n")
    changed = pytester.runpytest_inprocess()
    changed.assert_outcomes(failed=1)
    changed.stdout.fnmatch_lines(["*text.txt differs: if the change is meant*"])
