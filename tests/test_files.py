"""Files and folders appear whole or not at all, and are read without surprises."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qpc import staging
from qpc.errors import ArtifactError
from qpc.files import read_folder, read_regular, replace_file, replace_folder
from tests.dying import deaths

OLD = {"a": b"old", "b": b"old too"}
NEW = {"a": b"new", "b": b"new too"}


def free(folder: Path) -> None:
    return None


def write(goal: Path, content: dict[str, bytes]) -> None:
    replace_folder(goal, content, free)


def found(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(params=["one call", "two renames"])
def goal(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where to write, with and without a system that exchanges folders in one call."""
    if request.param == "two renames":
        monkeypatch.setattr(staging, "_renameat2", lambda *_: False)
    return tmp_path / "folders" / "goal"


def test_a_folder_is_written_and_replaced_and_nothing_else_is_left(goal: Path) -> None:
    for content in (OLD, NEW):
        write(goal, content)
        assert found(goal) == content
        assert os.listdir(goal.parent) == ["goal"]


def test_a_writer_that_dies_anywhere_leaves_the_old_or_the_new_version(tmp_path: Path) -> None:
    goal = tmp_path / "goal"
    write(goal, OLD)
    seen = []
    for step in deaths(lambda: write(goal, NEW)):
        assert found(goal) in (OLD, NEW), step
        seen.append(found(goal) == NEW)
        write(goal, OLD)
        assert os.listdir(tmp_path) == ["goal"], step
    assert len(seen) > 20
    assert seen == sorted(seen)  # first the old one, then the new one
    assert {True, False} == set(seen)


def test_a_writer_that_dies_before_there_was_anything_leaves_nothing_or_all(
    tmp_path: Path,
) -> None:
    goal = tmp_path / "goal"
    for step in deaths(lambda: write(goal, NEW)):
        assert not goal.exists() or found(goal) == NEW, step
        write(tmp_path / "other", OLD)
        assert set(os.listdir(tmp_path)) <= {"goal", "other"}, step
        if goal.exists():
            shutil.rmtree(goal)


def test_where_two_renames_must_do_the_next_writer_puts_back_what_the_dead_one_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_renameat2", lambda *_: False)
    goal = tmp_path / "goal"
    write(goal, OLD)
    missing = 0
    for step in deaths(lambda: write(goal, NEW)):
        missing += not goal.exists()
        write(tmp_path / "other", OLD)
        assert found(goal) in (OLD, NEW), step
        assert sorted(os.listdir(tmp_path)) == ["goal", "other"], step
        write(goal, OLD)
    assert missing == 1  # between the two renames, and nowhere else


def test_a_file_is_the_old_or_the_new_one_wherever_its_writer_dies(tmp_path: Path) -> None:
    goal = tmp_path / "file"
    goal.write_bytes(b"old")
    for step in deaths(lambda: replace_file(goal, b"new")):
        assert goal.read_bytes() in (b"old", b"new"), step
        replace_file(goal, b"old")
        assert os.listdir(tmp_path) == ["file"], step


@pytest.mark.parametrize("quick", [True, False])
def test_a_file_is_replaced(tmp_path: Path, quick: bool) -> None:
    for data in (b"", b"content"):
        replace_file(tmp_path / "file", data, mode=0o600, quick=quick)
        assert (tmp_path / "file").read_bytes() == data
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "none" / "file", b"")


@pytest.mark.parametrize("call", ["mkdir", "write", "fsync"])
def test_a_failed_save_leaves_everything_as_it_was(
    goal: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write(goal, OLD)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(ArtifactError, match=r"cannot save to '.*goal': No space left") as error:
            write(goal, NEW)
    assert error.value.fix == "choose a folder you may write to, on a disk with space"
    assert found(goal) == OLD
    assert os.listdir(goal.parent) == ["goal"]


def test_a_failed_second_rename_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_renameat2", lambda *_: False)
    goal, rename = tmp_path / "goal", os.rename
    write(goal, OLD)

    def fail_for_new(old: Path, new: Path) -> None:
        if old.name == staging.FRESH:
            raise KeyboardInterrupt
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail_for_new)
        with pytest.raises(KeyboardInterrupt):
            write(goal, NEW)
    assert found(goal) == OLD
    assert os.listdir(tmp_path) == ["goal"]


# --- what must stay -------------------------------------------------------------------------------


def _file(goal: Path) -> None:
    goal.write_text("mine")


def _link(goal: Path) -> None:
    write(goal.parent / "real", OLD)
    goal.symlink_to("real")


@pytest.mark.parametrize(
    ("make", "why"), [(_file, "it is a file"), (_link, "it is a symbolic link")]
)
def test_files_and_links_stay(tmp_path: Path, make: Callable[[Path], None], why: str) -> None:
    make(tmp_path / "goal")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ArtifactError, match=f"goal' exists and cannot be replaced: {why}") as error:
        write(tmp_path / "goal", NEW)
    assert error.value.fix == "choose another name, or remove it"
    assert sorted(os.listdir(tmp_path)) == before


def test_what_somebody_put_there_while_it_was_written_is_put_back(goal: Path) -> None:
    write(goal, OLD)
    answers: Iterator[str | None] = iter((None, None, "it holds a thesis"))

    def why_not(folder: Path) -> str | None:
        answer = next(answers)
        (goal / "thesis.tex").write_text("It was")  # after the first looks, before the exchange
        return answer

    with pytest.raises(ArtifactError, match=r"goal' exists and cannot be replaced: it holds a the"):
        replace_folder(goal, NEW, why_not)
    assert (goal / "thesis.tex").read_text() == "It was"
    assert os.listdir(goal.parent) == ["goal"]


# --- several at a time ----------------------------------------------------------------------------


def test_readers_find_a_whole_version_while_writers_replace_it(tmp_path: Path) -> None:
    goal, versions = tmp_path / "goal", [{"a": b"%d" % i, "b": b"%d" % i} for i in range(60)]
    write(goal, versions[0])
    problems: list[object] = []

    def replace(part: slice) -> None:
        for version in versions[part]:
            write(goal, version)

    writers = [threading.Thread(target=replace, args=[slice(i, None, 2)]) for i in range(2)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers) or not reads:
        content = read_folder(goal, "a", 9, lambda _: {"b": 9})
        problems += [content] if content.get("a") != content.get("b") or "b" not in content else []
        reads += 1
    for writer in writers:
        writer.join()
    assert problems == []
    assert os.listdir(tmp_path) == ["goal"]


# --- reading --------------------------------------------------------------------------------------


def test_only_regular_files_within_the_limit_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert read_regular(tmp_path / "file", 5) == read_regular(tmp_path / "link", 5) == b"12345"
    with pytest.raises(ArtifactError, match="file' has 5 bytes, at most 4 are expected"):
        read_regular(tmp_path / "file", 4)
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ArtifactError, match="is no regular file"):
            read_regular(path, 5)
    with pytest.raises(ArtifactError, match=r"cannot read '.*none': No such file"):
        read_regular(tmp_path / "none", 5)


def test_a_file_may_be_looked_at_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")

    def why_not(about: os.stat_result, path: Path) -> str | None:
        return f"{path.name} has {about.st_size} bytes" if path.name == "link" else None

    assert read_regular(tmp_path / "file", 10, why_not=why_not) == b"content"
    with pytest.raises(ArtifactError, match="link' is not read: link has 7 bytes"):
        read_regular(tmp_path / "link", 10, why_not=why_not)


def test_a_file_that_grows_is_not_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    monkeypatch.setattr(os, "read", lambda file, count: bytes(count))
    with pytest.raises(ArtifactError, match="file' grows while it is read"):
        read_regular(tmp_path / "file", 5)


def test_a_folder_is_read_from_its_first_file_on(tmp_path: Path) -> None:
    write(tmp_path / "goal", OLD)
    assert read_folder(tmp_path / "goal", "a", 3, lambda a: {"b": 4 + len(a)}) == OLD
    assert read_folder(tmp_path / "goal", "none", 3, lambda _: {}) == {}
    assert read_folder(tmp_path / "goal", "a", 3, lambda _: {"none": 1}) == {"a": b"old"}
    with pytest.raises(ArtifactError, match="b' has 7 bytes, at most 1 are expected"):
        read_folder(tmp_path / "goal", "a", 3, lambda _: {"b": 1})
    with pytest.raises(ArtifactError, match=r"cannot read '.*none': No such file"):
        read_folder(tmp_path / "none", "a", 3, lambda _: {})
