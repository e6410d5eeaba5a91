from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from qpc.errors import BackendError
from qpc.runtime import scratch
from qpc.runtime.scratch import in_scratch_file


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def test_the_file_is_in_memory_and_has_the_content() -> None:
    path, content = in_scratch_file(b"code", lambda path: (path, _read(path)))
    assert content == b"code"
    assert path.startswith("/proc/self/")


def test_no_two_files_have_the_same_name_even_if_they_have_the_same_descriptor() -> None:
    names = [in_scratch_file(b"", lambda path: path) for _ in range(1000)]
    assert len(set(names)) == 1000
    assert len({Path(name).name for name in names}) == 1


def test_it_can_be_written_to() -> None:
    def write(path: str) -> bytes:
        Path(path).write_bytes(b"object file")
        return _read(path)

    assert in_scratch_file(b"", write, room=100) == b"object file"


def test_descriptors_are_closed() -> None:
    before = os.listdir("/proc/self/fd")
    in_scratch_file(b"", _read)
    with pytest.raises(ZeroDivisionError):
        in_scratch_file(b"", lambda path: 1 // 0)
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def _no_memory_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")


@pytest.mark.usefixtures("_no_memory_files")
def test_without_files_in_memory_it_is_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path, content = in_scratch_file(b"code", lambda path: (path, _read(path)))
    assert content == b"code"
    assert Path(path).is_relative_to(tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_proc_it_is_in_the_temporary_folder_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_new_name", lambda descriptor: "/nowhere/5")
    assert in_scratch_file(b"code", _read) == b"code"


def test_where_code_cannot_be_loaded_from_memory_the_disk_is_tried() -> None:
    def load(path: str) -> str:
        if path.startswith("/proc"):
            raise PermissionError("no code from memory")
        return path

    assert in_scratch_file(b"code", load).startswith(tempfile.gettempdir())


@pytest.mark.usefixtures("_no_memory_files")
def test_a_full_disk_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(f_bavail=3, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda folder: full)
    assert in_scratch_file(b"code", _read, room=10_000) == b"code"
    with pytest.raises(
        BackendError, match=r"for machine code: .*No space left on device"
    ) as caught:
        in_scratch_file(b"code", _read, room=3 * 4096)
    assert "set TMPDIR to a folder with space" in str(caught.value.fix)


@pytest.mark.usefixtures("_no_memory_files")
def test_no_temporary_folder_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(BackendError, match=r"cannot use a temporary file .*No such file"):
        in_scratch_file(b"code", _read)


def test_a_limit_on_the_size_of_files_is_an_error_before_llvm_meets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1000, 1000))
    assert in_scratch_file(b"code", _read, room=900) == b"code"
    with pytest.raises(BackendError, match=r"files are limited to 1000 bytes \(ulimit -f\)"):
        in_scratch_file(b"code", _read, room=1000)
