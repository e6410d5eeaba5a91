from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

pytest.importorskip("tvm")

from qpc.backends.tvm.codegen import cache as module
from qpc.backends.tvm.codegen.cache import KernelCache, default_folder, folder_of, open_cache
from qpc.errors import BackendError
from tests.dying import deaths

KEY, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture(autouse=True)
def _told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_told", set())


def test_an_entry_comes_back(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "new")
    assert cache.get(KEY) is None
    cache.put(KEY, b"code")
    assert cache.get(KEY) == b"code"
    assert KernelCache(tmp_path / "new").get(KEY) == b"code"


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 100], ids=["empty", "short", "other"])
def test_a_damaged_entry_is_none_and_is_replaced(tmp_path: Path, damage: bytes) -> None:
    cache = KernelCache(tmp_path)
    cache.put(KEY, b"code")
    (tmp_path / f"{KEY}.o").write_bytes(damage)
    assert cache.get(KEY) is None
    cache.put(KEY, b"code")
    assert cache.get(KEY) == b"code"


def test_what_is_too_large_for_a_kernel_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = KernelCache(tmp_path)
    cache.put(KEY, b"code")
    os.truncate(tmp_path / f"{KEY}.o", 64 * 2**20 + 1)  # which takes no room on the disk

    def digest(*_: object) -> bytes:
        raise AssertionError("it was read")

    monkeypatch.setattr(module, "_digest", digest)
    assert cache.get(KEY) is None


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    cache.put(KEY, b"code")
    whole = (tmp_path / f"{KEY}.o").read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        (tmp_path / f"{KEY}.o").write_bytes(flipped)
        assert cache.get(KEY) is None


def test_without_a_folder_nothing_is_kept() -> None:
    cache = open_cache(False)
    cache.put(KEY, b"code")
    cache.trim()
    assert cache.get(KEY) is None


def test_a_folder_that_cannot_be_made_is_told_about_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="kernels are not kept for the next time") as caught:
        KernelCache(tmp_path / "file").put(KEY, b"code")
    assert "QPC_CACHE_DIR" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = KernelCache(tmp_path / "file")
        cache.put(KEY, b"code")
        cache.put(KEY, b"code")
        cache.trim()
        assert cache.get(KEY) is None


def test_an_entry_under_the_name_of_another_is_none(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    cache.put(KEY, b"code")
    os.rename(tmp_path / f"{KEY}.o", tmp_path / f"{OTHER}.o")
    assert cache.get(OTHER) is None


def test_a_renewed_cache_makes_all_entries_again(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    cache.put(KEY, b"code")
    renewed = cache.renewed()
    assert renewed.get(KEY) is None
    renewed.put(KEY, b"better")
    assert (cache.found, cache.get(KEY), cache.found) == (0, b"better", 1)


def test_the_entries_that_were_not_used_for_longest_go(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, limit_bytes=450)
    names = [f"{i:064x}" for i in range(4)]
    for age, name in enumerate(names):
        cache.put(name, bytes(68))  # 100 bytes with the hash
        os.utime(tmp_path / f"{name}.o", (1000 + age, 1000 + age))
    assert cache.get(names[0]) is not None  # and so it is the youngest now
    cache.trim()
    assert len(list(tmp_path.iterdir())) == 4
    cache.put("f" * 64, bytes(68))
    cache.trim()
    left = {file.stem for file in tmp_path.iterdir()}
    assert left == {names[0], names[3], "f" * 64}


def test_a_cache_that_only_reads_removes_nothing(tmp_path: Path) -> None:
    KernelCache(tmp_path).put(KEY, b"code")
    reader = KernelCache(tmp_path, limit_bytes=1)
    assert reader.get(KEY) == b"code"
    reader.trim()
    assert reader.get(KEY) == b"code"


WRITER = """
import hashlib, pathlib, sys
from qpc.backends.tvm.codegen.cache import KernelCache
cache, seed = KernelCache(pathlib.Path(sys.argv[1])), int(sys.argv[2])
for i in range(200):
    key = hashlib.sha256(str((i * seed) % 7).encode()).hexdigest()
    data = key.encode() * 1000
    cache.put(key, data)
    assert cache.get(key) == data
"""


@pytest.mark.thorough
def test_concurrent_writers_never_see_half_an_entry(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, str(seed)])
        for seed in (1, 2, 3, 4)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 7  # no temporary file is left


def test_what_is_no_entry_stays_where_it_is(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, limit_bytes=0)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / f"{OTHER}.o").mkdir()
    cache.put(KEY, b"code")
    cache.trim()
    assert {file.name for file in tmp_path.iterdir()} == {"notes.txt", f"{OTHER}.o"}


def test_trimming_removes_what_dead_writers_left(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    died = list(deaths(lambda: cache.put(KEY, b"code")))
    assert len(died) > 3
    cache.put(KEY, b"code")
    cache.trim()
    assert [file.name for file in tmp_path.iterdir()] == [f"{KEY}.o"]


def test_a_writer_that_dies_anywhere_leaves_the_old_entry_or_the_new_one(tmp_path: Path) -> None:
    KernelCache(tmp_path).put(KEY, b"old")
    seen = set()
    for _ in deaths(lambda: KernelCache(tmp_path).put(KEY, b"new")):
        seen.add(KernelCache(tmp_path).get(KEY))
        KernelCache(tmp_path).put(KEY, b"old")
    assert seen == {b"old", b"new"}


def test_the_default_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QPC_CACHE_DIR", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own"
    monkeypatch.delenv("QPC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg/qpc"
    for nothing in ("", "relative"):  # the specification says to ignore it
        monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert default_folder() == Path.home() / ".cache/qpc"


def test_without_a_home_directory_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("QPC_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.warns(UserWarning, match="nothing is kept for the next time: this user has no ho"):
        cache = open_cache(True)
    cache.put(KEY, b"code")
    assert cache.get(KEY) is None
    monkeypatch.setattr(Path, "home", lambda: Path("relative"))
    assert default_folder() is None


@pytest.mark.parametrize("wrong", ["", b"folder", 3, None, 1.5, ["folder"], "a\0b"], ids=repr)
def test_an_argument_that_is_no_folder_is_refused(wrong: object) -> None:
    with pytest.raises(BackendError, match="cache must be a bool or the path of a folder, got"):
        folder_of(wrong)


def test_a_file_is_no_folder_to_keep_anything_in(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BackendError, match=r"must be the path of a folder, but .*file' is a file"):
        open_cache(tmp_path / "file")


def test_the_argument_chooses_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QPC_CACHE_DIR", str(tmp_path / "environment"))
    open_cache(True).put(KEY, b"code")
    open_cache(str(tmp_path / "argument")).put(KEY, b"code")
    assert (tmp_path / f"environment/kernels/{KEY}.o").exists()
    assert (tmp_path / f"argument/kernels/{KEY}.o").exists()
