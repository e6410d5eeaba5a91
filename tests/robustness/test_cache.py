"""The kernel cache in bad company: what others wrote, what is damaged, full or read-only."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")

from qpc.backends.tvm.codegen import cache as module
from qpc.backends.tvm.codegen.cache import KernelCache, why_not_private
from tests.robustness.cache_entries import Compilations, check_entries, small_model

pytestmark = pytest.mark.tvm
KEY = "ab" * 32
ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.fixture(autouse=True)
def _told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_told", set())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one entry."""
    KernelCache(tmp_path / "kernels").put(KEY, b"code")
    return tmp_path / "kernels"


# --- others ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_may_write_to_is_not_used(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    before = os.listdir(folder)
    with pytest.warns(UserWarning, match="not used, as it would be run: other users may write"):
        cache = KernelCache(folder)
    assert cache.get(KEY) is None
    cache.put("cd" * 32, b"code")
    cache.trim()
    assert os.listdir(folder) == before


def test_that_is_said_once(folder: Path) -> None:
    folder.chmod(0o777)
    with pytest.warns(UserWarning, match="or set QPC_CACHE_DIR to a folder of your own"):
        KernelCache(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KernelCache(folder)


def test_an_entry_that_others_may_write_to_is_made_again(folder: Path) -> None:
    entry = folder / f"{KEY}.o"
    entry.chmod(0o666)
    cache = KernelCache(folder)
    with pytest.warns(UserWarning, match="other users may write to it"):
        assert cache.get(KEY) is None
    cache.put(KEY, b"code")
    assert cache.get(KEY) == b"code"
    assert entry.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_what_belongs_to_another_user_is_not_used(folder: Path) -> None:
    os.chown(folder / f"{KEY}.o", NOBODY, -1)
    with pytest.warns(UserWarning, match="it belongs to another user, of number 65534"):
        assert KernelCache(folder).get(KEY) is None
    os.chown(folder, NOBODY, -1)
    with pytest.warns(UserWarning, match="kernels' is not used, as it would be run: it belongs to"):
        KernelCache(folder).put(KEY, b"code")


def test_what_belongs_to_root_is_used_by_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    about = list(os.stat("/"))
    about[0], about[4] = 0o100644, 0
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert why_not_private(os.stat_result(about)) is None
    about[4] = 1000
    assert why_not_private(os.stat_result(about)) is None
    about[4] = 1001
    assert why_not_private(os.stat_result(about)) == "it belongs to another user, of number 1001"


def test_a_link_to_a_file_of_others_is_not_followed_into_trust(
    folder: Path, tmp_path: Path
) -> None:
    entry = folder / f"{KEY}.o"
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    assert KernelCache(folder).get(KEY) == b"code"
    (tmp_path / "elsewhere").chmod(0o666)
    with pytest.warns(UserWarning, match="other users may write to it"):
        assert KernelCache(folder).get(KEY) is None


def test_a_folder_that_appears_in_the_meantime_is_looked_at(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "kernels")
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels").chmod(0o777)
    with pytest.warns(UserWarning, match="other users may write to it"):
        cache.put(KEY, b"code")
    assert os.listdir(tmp_path / "kernels") == []


# --- read-only and full ---------------------------------------------------------------------------


@pytest.fixture
def _changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever changes a file fails, as on a file system that is mounted read-only."""
    real_open = os.open

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def opens(path: str, flags: int, *rest: int, **options: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            fails()
        return real_open(path, flags, *rest, **options)

    for name in ("utime", "unlink", "replace", "rename", "mkdir"):
        monkeypatch.setattr(os, name, fails)
    monkeypatch.setattr(os, "open", opens)


@pytest.mark.usefixtures("_changes_nothing")
def test_a_read_only_cache_is_used(folder: Path) -> None:
    cache = KernelCache(folder, limit_bytes=0)
    assert cache.get(KEY) == b"code"
    with pytest.warns(UserWarning, match=r"are not kept .*\(Read-only file system\); set"):
        cache.put("cd" * 32, b"code")
    cache.put("ef" * 32, b"code")
    cache.trim()
    assert cache.get(KEY) == b"code"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", str(disk)]
    if not ROOT or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_loses_no_entry(tiny_disk: Path) -> None:
    cache = KernelCache(tiny_disk / "kernels")
    cache.put(KEY, b"code")
    with pytest.warns(UserWarning, match=r"\(No space left on device\)"):
        cache.put("cd" * 32, bytes(100_000))
    assert cache.get(KEY) == b"code"
    assert os.listdir(tiny_disk / "kernels") == [f"{KEY}.o"]


def test_a_disk_that_turns_read_only_is_read(tiny_disk: Path) -> None:
    KernelCache(tiny_disk / "kernels").put(KEY, b"code")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    cache = KernelCache(tiny_disk / "kernels")
    assert cache.get(KEY) == b"code"
    with pytest.warns(UserWarning, match="Read-only file system"):
        cache.put("cd" * 32, b"code")


# --- races ----------------------------------------------------------------------------------------

BUSY = """
import hashlib, os, pathlib, random, sys
from qpc.backends.tvm.codegen.cache import KernelCache
folder, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
rng = random.Random(seed)
for turn in range(150):
    cache = KernelCache(folder, limit_bytes=20_000)
    key = hashlib.sha256(bytes([rng.randrange(20)])).hexdigest()
    data = bytes.fromhex(key) * 100
    assert cache.get(key) in (data, None)
    cache.put(key, data)
    assert cache.get(key) in (data, None)
    cache.trim()
    if turn % 50 == 25:  # somebody clears the cache by hand
        for file in os.listdir(folder):
            try:
                os.unlink(folder / file)
            except FileNotFoundError:
                pass
"""


@pytest.mark.thorough
def test_processes_trim_write_and_clear_one_cache(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", BUSY, str(tmp_path / "kernels")]
    processes = [
        subprocess.Popen([*command, str(seed)], stderr=subprocess.PIPE, text=True)
        for seed in range(4)
    ]
    assert [process.communicate()[1] for process in processes] == [""] * 4
    assert [process.returncode for process in processes] == [0] * 4
    assert all(name.endswith(".o") for name in os.listdir(tmp_path / "kernels"))


def test_a_folder_that_goes_away_is_no_error(folder: Path) -> None:
    cache = KernelCache(folder, limit_bytes=0)
    cache.put("cd" * 32, b"code")
    for file in os.listdir(folder):
        (folder / file).unlink()
    folder.rmdir()
    cache.trim()
    assert cache.get(KEY) is None
    cache.put(KEY, b"code")
    assert cache.get(KEY) == b"code"


# --- damage ---------------------------------------------------------------------------------------


def test_damaged_entries_are_never_given() -> None:
    for seed in range(100):
        check_entries(seed)


def test_a_compilation_with_a_damaged_cache_is_that_without_one() -> None:
    Compilations(small_model()).check(0)
