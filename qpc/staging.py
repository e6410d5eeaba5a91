"""Staging: where writers put things before they exchange them with what is there.

A staging folder, or file, lies beside its goal and is locked by its writer for as long as the
writer lives, in any container that shares the file system. Those that nobody holds are removed by
the next writer. Where files cannot be locked they stay: what may be alive is never removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FRESH = "new"
"""In a staging folder: the folder to put in place; after that, the one that was there."""
_PREFIX = ".qpc-save-"
_LOCK, _ASIDE = "lock", "aside"
_TRIES = 100  # of what another process may disturb
_DISTURBED = "other processes remove what is being written"

_AT_FDCWD, _RENAME_NOREPLACE, _RENAME_EXCHANGE = -100, 1, 2  # of Linux, <linux/fs.h>
_NO_SUCH_CALL = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
_LOCK_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_LOCKS = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.ENOLCK, errno.EBADF}


@contextmanager
def staged(parent: Path) -> Iterator[Path]:
    """A new folder in `parent` that is locked until it is removed."""
    folder, lock = _claimed(parent)
    try:
        yield folder
    finally:
        try:
            _remove(folder)
        finally:
            os.close(lock)


@contextmanager
def locked_file(parent: Path, mode: int) -> Iterator[tuple[Path, int]]:
    """A new file in `parent`, which is removed in the end unless it was renamed."""
    for _ in range(_TRIES):
        path = parent / f"{_PREFIX}{_unique()}"
        with created(path, mode) as file:
            try:
                if _claim(file, path):
                    yield path, file
                    return
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(path)
    raise OSError(errno.EBUSY, _DISTURBED)


@contextmanager
def created(path: Path, mode: int = 0o666) -> Iterator[int]:
    """A new file, open for writing."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        yield file
    finally:
        os.close(file)


def clean_up(folder: Path) -> None:
    """Remove what writers of this user left in `folder` when they died; no error if it cannot."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(_PREFIX):
                with contextlib.suppress(OSError):
                    _remove_abandoned(folder / name)


def _claimed(parent: Path) -> tuple[Path, int]:
    for _ in range(_TRIES):
        folder = parent / f"{_PREFIX}{_unique()}"
        os.mkdir(folder, 0o700)
        try:
            lock = os.open(folder / _LOCK, _LOCK_FLAGS | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue
        claimed = False
        try:
            claimed = _claim(lock, folder / _LOCK)
        finally:
            if not claimed:
                os.close(lock)
        if claimed:
            return folder, lock
    raise OSError(errno.EBUSY, _DISTURBED)


def _claim(file: int, path: Path) -> bool:
    """Lock what was just made; False if another process took it for abandoned before."""
    try:
        _lock(file, path)
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as e:
        if e.errno not in _NO_LOCKS:
            raise
    return True


def _lock(file: int, path: Path) -> None:
    """Lock an open file until it is closed.

    Raises BlockingIOError if another one holds it, FileNotFoundError if it is no longer at `path`,
    and OSError where files cannot be locked.
    """
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not os.path.samestat(os.fstat(file), os.lstat(path)):
        raise FileNotFoundError(errno.ENOENT, "replaced by another process", str(path))


def _remove_abandoned(path: Path) -> None:
    about = os.lstat(path)
    if about.st_uid != os.geteuid():
        return
    folder = stat.S_ISDIR(about.st_mode)
    held = path / _LOCK if folder else path
    lock = os.open(held, _LOCK_FLAGS | (os.O_CREAT if folder else 0), 0o600)
    try:
        _lock(lock, held)
        if folder:
            _restore(path)
            _remove(path)
        else:
            os.unlink(path)
    finally:
        os.close(lock)


def _unique() -> str:
    import secrets  # here, as whoever only reads does without

    return secrets.token_hex(8)


def _remove(folder: Path) -> None:
    import shutil

    with contextlib.suppress(OSError):
        os.chmod(folder / FRESH, 0o700)  # an old version may have been made read-only
    shutil.rmtree(folder, ignore_errors=True)


# --- exchanging -----------------------------------------------------------------------------------


def rename_to_nothing(fresh: Path, goal: Path) -> None:
    """Give a folder a name that must be free; raises FileExistsError, or OSError, if it is not."""
    if not _renameat2(fresh, goal, _RENAME_NOREPLACE):
        os.rename(fresh, goal)  # refuses to replace a folder with anything in it, too


def exchange(staging: Path, goal: Path) -> None:
    """Exchange the folder FRESH in `staging` and the one at `goal`."""
    fresh, aside = staging / FRESH, staging / _ASIDE
    if _renameat2(fresh, goal, _RENAME_EXCHANGE):
        return
    aside.mkdir(exist_ok=True)
    os.rename(goal, aside / goal.name)  # from here on `_restore` finds it, if this process dies
    try:
        os.rename(fresh, goal)
    except BaseException:
        os.rename(aside / goal.name, goal)
        raise
    os.rename(aside / goal.name, fresh)


def _restore(staging: Path) -> None:
    """Put back what a dead writer had moved aside."""
    aside = staging / _ASIDE
    if not aside.is_dir():
        return
    for name in os.listdir(aside):
        if not os.path.lexists(staging.parent / name):
            rename_to_nothing(aside / name, staging.parent / name)


def _renameat2(old: Path, new: Path, flags: int) -> bool:
    """Rename in one step; False where the system does not know how."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) == 0:
        return True
    error = ctypes.get_errno()
    if error in _NO_SUCH_CALL:
        return False
    raise OSError(error, os.strerror(error), str(old), None, str(new))
