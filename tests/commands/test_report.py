"""`qpc report` as a process of its own: with no terminal, and interrupted while it measures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qpc.reporting.data import read_report

pytestmark = [pytest.mark.tvm, pytest.mark.thorough]
ROOT = Path(__file__).parents[2]
_MAIN = "from qpc.cli import main; main()"
MEASURING = "measuring each layer"


@pytest.fixture
def started(here: Path, tmp_path: Path) -> subprocess.Popen[str]:
    """The command, whose output goes to pipes."""
    words = ("report", "net", "--data", "data.safetensors", "--samples", "2", "--no-time", "--out")
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _MAIN, *words, str(tmp_path / "net.html")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_with_no_terminal_it_writes_plain_lines_and_the_page(
    started: subprocess.Popen[str], tmp_path: Path
) -> None:
    out, err = started.communicate(timeout=300)
    assert started.returncode == 0, err
    assert "\x1b" not in out + err
    assert "\r" not in out + err
    assert MEASURING in err
    assert out.splitlines()[0].startswith("a report on ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.html", "net.json"]
    assert read_report(tmp_path / "net.json").title == "net"


def test_interrupted_while_it_measures_it_leaves_nothing_and_says_so(
    started: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert started.stderr is not None
    seen = ""
    while MEASURING not in seen:
        line = started.stderr.readline()
        assert line, f"it ended before it measured: {seen}"
        seen += line
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=300)
    assert started.returncode in (130, -signal.SIGINT)
    assert err.splitlines()[-1].startswith("interrupted: nothing was written")
    assert out == ""
    assert list(tmp_path.iterdir()) == []
