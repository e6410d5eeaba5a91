from __future__ import annotations

import errno
from pathlib import Path

import pytest

from qpc.errors import ArtifactError
from qpc.parallel.journal import Journal


def test_a_run_about_something_else_is_refused(tmp_path: Path) -> None:
    Journal.open(tmp_path / "run", {"graph": "1", "batches": "2"})
    with pytest.raises(
        ArtifactError, match=r"the run in '.*run' is about something else: batches changed"
    ) as caught:
        Journal.open(tmp_path / "run", {"graph": "1", "batches": "3"})
    assert "choose another folder" in str(caught.value.full_text)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ArtifactError, match=r"holds something else than a run: 'letter\.txt'"):
        Journal.open(tmp_path, {"graph": "1"})
    with pytest.raises(ArtifactError, match=r"cannot use '.*letter\.txt' for a run: "):
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


def test_a_full_disk_is_said_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(tmp_path / "run", {"graph": "1"})
    journal.record("a", 1)

    def full(goal: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("qpc.parallel.journal.replace_file", full)
    with pytest.raises(ArtifactError, match=r"cannot write to '.*': No space left") as caught:
        journal.record("b", 2)
    assert "goes on from there" in caught.value.full_text
    assert (journal.find("a"), journal.find("b")) == ((1,), None)
