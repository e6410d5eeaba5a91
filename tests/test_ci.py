"""What CI does about tests that fail because of the time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "took_too_long.py"
LATE = (
    '<error message="failed on setup with &quot;Failed: Timeout (&gt;120.0s) from pytest-timeout"/>'
)
HUNG = "<failure message=\"worker 'gw0' crashed while running 'test_x.py::test_a'\"/>"
WRONG = '<failure message="assert 1 == 2"/>'


def case(name: str, inside: str) -> str:
    return f'<testcase classname="test_x" name="{name}">{inside}</testcase>'


@pytest.mark.parametrize(
    ("cases", "count", "status"),
    [
        ([case("a", LATE), case("b", HUNG), case("c", "")], 3, 0),
        ([case("a", LATE), case("b", WRONG)], 2, 1),
        ([case("a", '<failure message=""/>')], 1, 1),
        ([case("a", "")], 1, 1),  # something else failed, such as the coverage
        ([case("a", LATE)], 2, 1),  # interrupted
    ],
)
def test_only_tests_that_took_too_long_are_run_again(
    cases: list[str], count: int, status: int, tmp_path: Path
) -> None:
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    command = [sys.executable, str(SCRIPT), str(report), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    if count > len(cases):
        assert "1 of 2 tests have no result" in done.stdout
    else:
        assert ("test_x::a" in done.stdout) == (cases[0] != case("a", ""))
