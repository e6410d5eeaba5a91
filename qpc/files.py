"""Files and folders on disk: written whole or not at all, read without surprises.

Writers put everything into a staging folder beside the goal and exchange the two in one step, so
that whoever reads finds the old version or the new one, at every moment and after every crash:

- Linux exchanges two folders in one system call (`renameat2`). Where the kernel or the file system
  cannot, the old folder moves into the staging folder, the new one into its place. A reader may
  find nothing in between; what a crash in between leaves is put back by the next save.
- Everything is flushed to the disk before the exchange, and the exchange before the old version
  goes.
- What a dead writer left is removed by the next one beside it, see `qpc.staging`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from qpc.errors import ArtifactError
from qpc.staging import FRESH, clean_up, created, exchange, locked_file, rename_to_nothing, staged

_CHUNK = 2**30  # bytes; one call cannot read or write much more
_TRIES = 100  # of what another process may disturb


# --- writing --------------------------------------------------------------------------------------


def replace_folder(
    goal: Path, content: Mapping[str, bytes], why_not: Callable[[Path], str | None]
) -> None:
    """Make `goal` a folder of these files, in place of an earlier version.

    why_not: says of the folder that is there why it must stay, or None if it may go. It is asked
    again after the exchange, which is undone if somebody put something there in the meantime.
    A symbolic link or a file always stays.

    Raises ArtifactError if it must stay, or cannot be written; then everything is as before.
    """
    try:
        _check_replaceable(goal, goal, why_not)
        goal.parent.mkdir(parents=True, exist_ok=True)
        clean_up(goal.parent)
        with staged(goal.parent) as staging:
            fresh = staging / FRESH
            os.mkdir(fresh)
            for name, data in content.items():
                with created(fresh / name) as file:
                    _write(file, data)
                    os.fsync(file)
            _flush_folder(fresh)
            _put_in_place(staging, goal, why_not)
            _flush_folder(goal.parent)
    except OSError as e:
        raise ArtifactError(
            f"cannot save to {str(goal)!r}: {e.strerror or e}",
            fix="choose a folder you may write to, on a disk with space",
        ) from e


def replace_file(goal: Path, data: bytes, *, mode: int = 0o666, quick: bool = False) -> None:
    """Make `goal` a file with this content, in place of what is there; a link is replaced itself.

    mode: permissions, less the umask. quick: neither wait for the disk nor look for what the dead
    left, for files that prove their content themselves; call `clean_up` now and then.

    Raises OSError if it cannot be written; then everything is as before.
    """
    if not quick:
        clean_up(goal.parent)
    with locked_file(goal.parent, mode) as (temporary, file):
        _write(file, data)
        if not quick:
            os.fsync(file)
        os.replace(temporary, goal)
    if not quick:
        _flush_folder(goal.parent)


def _check_replaceable(goal: Path, found: Path, why_not: Callable[[Path], str | None]) -> None:
    """goal: how to call it; found: where it is, or was put."""
    if not os.path.lexists(found):
        return
    if found.is_symlink():
        reason: str | None = "it is a symbolic link"
    elif not found.is_dir():
        reason = "it is a file"
    else:
        reason = why_not(found)
    if reason is not None:
        raise ArtifactError(
            f"{str(goal)!r} exists and cannot be replaced: {reason}",
            fix="choose another name, or remove it",
        )


def _put_in_place(staging: Path, goal: Path, why_not: Callable[[Path], str | None]) -> None:
    for _ in range(_TRIES):
        _check_replaceable(goal, goal, why_not)
        try:
            if not os.path.lexists(goal):
                rename_to_nothing(staging / FRESH, goal)
                return
            exchange(staging, goal)
        except (FileExistsError, FileNotFoundError):
            continue  # another writer was quicker
        old = staging / FRESH
        try:
            _check_replaceable(goal, old, why_not)
        except ArtifactError:
            exchange(staging, goal)
            raise
        return
    raise OSError(errno.EBUSY, "other writers replace it all the time")


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest[:_CHUNK]) :]


def _flush_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # a folder that one may write to but not read
    try:
        os.fsync(handle)
    except OSError as e:  # some file systems flush files only
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


# --- reading --------------------------------------------------------------------------------------


WhyNot: TypeAlias = Callable[[os.stat_result, Path], str | None]
"""Says of a file that is open why it must not be read, or None if it may be."""


def read_regular(path: Path, limit: int, *, why_not: WhyNot | None = None) -> bytes:
    """The content of a file of at most `limit` bytes; symbolic links are followed.

    Whatever is no regular file (a folder, a pipe, a device) is refused, not waited for, and so is
    what `why_not` has a reason against.

    Raises ArtifactError if there is none, or it is larger or cannot be read.
    """
    try:
        return _read(path, path, limit, why_not=why_not)
    except OSError as e:
        raise ArtifactError(
            f"cannot read {str(path)!r}: {e.strerror or e}", fix="check the path"
        ) from e


def read_folder(
    folder: Path, first: str, limit: int, others: Callable[[bytes], Mapping[str, int]]
) -> dict[str, bytes]:
    """Files of a folder by name, of one version even while the folder is being replaced.

    first: the file to begin with, of at most `limit` bytes. others: given its content, the other
    files to read and how many bytes each may have; what it raises is raised. The result lacks files
    that are not there.

    Raises ArtifactError if there is no such folder, or a file is too large or cannot be read.
    """
    try:
        return _one_version(folder, first, limit, others)
    except OSError as e:
        raise ArtifactError(
            f"cannot read {str(folder)!r}: {e.strerror or e}", fix="check the path"
        ) from e


def _one_version(
    folder: Path, first: str, limit: int, others: Callable[[bytes], Mapping[str, int]]
) -> dict[str, bytes]:
    for _ in range(_TRIES):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found, wanted = {}, {first: limit}
            with contextlib.suppress(FileNotFoundError):
                found[first] = _read(first, folder / first, limit, handle)
                wanted |= others(found[first])
            for name in (name for name in wanted if name != first):
                with contextlib.suppress(FileNotFoundError):
                    found[name] = _read(name, folder / name, wanted[name], handle)
            if len(found) == len(wanted) or _is_open(handle, folder):
                return found
        finally:
            os.close(handle)
    raise OSError(errno.EBUSY, "it is being replaced all the time")


def _is_open(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(folder))
    except FileNotFoundError:
        return False


def _read(
    path: str | Path,
    shown: Path,
    limit: int,
    folder: int | None = None,
    why_not: WhyNot | None = None,
) -> bytes:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    file = os.open(path, flags, dir_fd=folder)
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise ArtifactError(
                f"{str(shown)!r} is no regular file", fix="put the file itself there"
            )
        if why_not is not None and (reason := why_not(about, shown)):
            raise ArtifactError(f"{str(shown)!r} is not read: {reason}")
        if about.st_size > limit:
            raise ArtifactError(
                f"{str(shown)!r} has {about.st_size} bytes, at most {limit} are expected",
                fix="copy it again from where it is whole",
            )
        parts, left = [], about.st_size + 1  # one more, to notice that it grows
        while part := os.read(file, min(left, _CHUNK)):
            parts.append(part)
            left -= len(part)
            if not left:
                raise ArtifactError(
                    f"{str(shown)!r} grows while it is read", fix="wait until it is written"
                )
        return b"".join(parts)
    finally:
        os.close(file)
