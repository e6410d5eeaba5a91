"""What is being written is left alone, and what the dead left behind is not."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from qpc import staging
from qpc.files import replace_file, replace_folder


def test_this_system_exchanges_folders_in_one_call(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    assert staging._renameat2(tmp_path / "old", tmp_path / "new", staging._RENAME_EXCHANGE)


def test_what_a_living_writer_writes_is_not_cleaned_up(tmp_path: Path) -> None:
    with staging.staged(tmp_path) as folder, staging.locked_file(tmp_path, 0o600) as (path, _):
        staging.clean_up(tmp_path)
        assert folder.is_dir()
        assert path.exists()
    assert os.listdir(tmp_path) == []


def test_only_what_writers_left_is_cleaned_up(tmp_path: Path) -> None:
    (tmp_path / ".qpc-save-0").mkdir()
    (tmp_path / ".qpc-save-0" / "new").mkdir(0o500)
    (tmp_path / ".qpc-save-1").touch()
    (tmp_path / ".qpc-save-2").symlink_to(".")
    (tmp_path / ".other").mkdir()
    staging.clean_up(tmp_path)
    staging.clean_up(tmp_path / "nowhere")
    assert sorted(os.listdir(tmp_path)) == [".other", ".qpc-save-2"]


def test_where_files_cannot_be_locked_writers_go_on_and_nothing_is_cleaned_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    (tmp_path / ".qpc-save-0").mkdir()
    replace_folder(tmp_path / "goal", {"a": b"new"}, lambda folder: None)
    replace_file(tmp_path / "file", b"new")
    assert sorted(os.listdir(tmp_path)) == [".qpc-save-0", "file", "goal"]


def test_what_somebody_took_for_abandoned_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []
    flock = fcntl.flock

    def take_the_first_away(file: int, how: int) -> None:
        if not taken:
            taken.extend(tmp_path.iterdir())
            (taken[0] / "lock").unlink()
            taken[0].rmdir()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", take_the_first_away)
    with staging.staged(tmp_path) as folder:
        assert folder.is_dir()
        assert [folder] == list(tmp_path.iterdir()) != taken
