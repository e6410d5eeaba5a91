"""Boards are played by a script called `ssh`, which runs commands on this machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from qpc.backends.deploy.board import Board, ended_by
from qpc.backends.deploy.verify import Where, time_library, verify
from qpc.errors import BackendError, MissingDependencyError
from qpc.targets import Target
from tests.backends.deploy.conftest import Exported
from tests.emulation import require_tools

pytestmark = pytest.mark.tvm

_HERE = """#!/bin/sh
while [ "$1" != "--" ]; do shift; done
echo "$2" >> {folder}/hosts
export TMPDIR={folder}/board
exec sh -c "$3"
"""


def script(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str = _HERE) -> Path:
    """Put an `ssh` before all other commands; returns the folder that is the board's /tmp."""
    path, there = folder / "ssh", folder / "board"
    there.mkdir()
    path.write_text(text.format(folder=folder))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return there


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if platform.machine() != "x86_64":
        pytest.skip("the board that is played is an x86-64")
    return script(tmp_path, monkeypatch)


def test_vectors_are_replayed_on_a_board(exported: Exported, board: Path) -> None:
    require_tools("x86-64", build_only=True)
    where = Where(on="ssh://pi@raspberry:2222")
    assert verify(exported("x86-64"), where).where == "on ssh://pi@raspberry:2222"
    assert len(time_library(exported("x86-64"), where, calls=4).milliseconds) == 4
    assert set((board.parent / "hosts").read_text().split()) == {"pi@raspberry"}
    assert list(board.iterdir()) == []  # nothing is left there


def test_a_board_of_another_architecture_is_not_tried(exported: Exported, board: Path) -> None:
    text = "code for 'aarch64' is for aarch64 with Linux, ssh://board is x86_64 with Linux"
    with pytest.raises(BackendError, match=text):
        verify(exported("aarch64"), Where(on="ssh://board"))


def test_code_for_no_system_is_for_no_board_with_a_shell() -> None:
    text = "code for 'cortex-m4' runs without an operating system, and ssh://board has one"
    with pytest.raises(BackendError, match=text):
        Board.parse("ssh://board").check(Target.parse("cortex-m4"))


def test_a_board_that_lacks_a_feature_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, monkeypatch, "#!/bin/sh\necho Linux aarch64\necho 'Features : fp asimd'\n")
    with pytest.raises(BackendError, match=r"ssh://pi lacks crc, dotprod, .*, which code for"):
        Board.parse("ssh://pi").check(Target.parse("raspberry-pi-5"))
    Board.parse("ssh://pi").check(Target.parse("raspberry-pi-4"))


def test_a_board_that_nobody_answers_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, "#!/bin/sh\necho no route to host >&2\nexit 255\n")
    with pytest.raises(BackendError, match="cannot reach ssh://me@pi: no route to host") as caught:
        Board.parse("ssh://me@pi").shell("true")
    assert caught.value.fix == "make this work without a password: ssh me@pi true"


def test_a_board_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, "#!/bin/sh\nexec sleep 5\n")
    with pytest.raises(BackendError, match=r"ssh://pi gave no answer within 0\.1 s"):
        Board.parse("ssh://pi").shell("true", seconds=0.1)


def test_a_board_that_takes_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, "#!/bin/sh\necho disk full >&2\nexit 1\n")
    with (
        pytest.raises(BackendError, match="cannot copy a program to ssh://pi: disk full"),
        Board.parse("ssh://pi").program(b"code"),
    ):
        pass


def test_without_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="ssh is not installed"):
        Board.parse("ssh://pi").shell("true")


@pytest.mark.parametrize("address", ["pi", "ssh://", "ssh://-oProxy", "ssh://a b", "http://pi"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(BackendError, match="is no address of a board"):
        Board.parse(address)


@pytest.mark.parametrize("address", ["ssh://pi", "ssh://me@pi.local", "ssh://10.0.0.2:22"])
def test_an_address_is_what_was_given(address: str) -> None:
    assert str(Board.parse(address)) == address


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    assert Board.parse("ssh://[fe80::1]:22").host == "fe80::1"


def test_signals_have_names() -> None:
    assert (ended_by(-4), ended_by(139), ended_by(1), ended_by(128 + 90)) == (
        "SIGILL",
        "SIGSEGV",
        None,
        None,
    )
