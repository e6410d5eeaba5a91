"""Files that exist for a moment: in memory, so that neither a full nor a strict /tmp matters.

The dynamic loader reads a file, and LLVM writes one: it ends the process if the disk is full.
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from qpc.errors import BackendError

T = TypeVar("T")

_numbers = itertools.count(1)


def in_scratch_file(content: bytes, use: Callable[[str], T], *, room: int = 0) -> T:
    """What `use` returns for the path of a file with this content, which is gone afterwards.

    The file is in memory. Where that cannot be, or `use` raises OSError for it, it is in the folder
    for temporary files.

    room: how many bytes `use` may write to the file.

    Raises BackendError if no such file can be written or used.
    """
    try:
        with _in_memory(content, room) as path:
            return use(path)
    except OSError:
        pass  # no such files, no /proc, or no code from there: the disk may do
    try:
        with _on_disk(content, room) as path:
            return use(path)
    except OSError as e:
        raise BackendError(
            f"cannot use a temporary file for machine code: {e}",
            fix="set TMPDIR to a folder with space, on a file system that is not mounted noexec",
        ) from e


@contextmanager
def _in_memory(content: bytes, room: int) -> Iterator[str]:
    if not hasattr(os, "memfd_create"):
        raise OSError(errno.ENOSYS, "there are no files in memory")
    with open(os.memfd_create("qpc"), "wb") as file:
        _check_limit(len(content) + room)
        file.write(content)
        file.flush()
        path = _new_name(file.fileno())
        if not Path(path).exists():
            raise OSError(errno.ENOENT, "there is no /proc")
        yield path


@contextmanager
def _on_disk(content: bytes, room: int) -> Iterator[str]:
    import tempfile  # here, as most never need it

    with tempfile.TemporaryDirectory(prefix="qpc-") as folder:
        _check_limit(len(content) + room)
        system = os.statvfs(folder)
        if system.f_bavail * system.f_frsize < len(content) + room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)
        path = Path(folder, "code")
        path.write_bytes(content)
        yield str(path)


def _check_limit(size: int) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < size:
        raise OSError(errno.EFBIG, f"files are limited to {limit} bytes (ulimit -f)")


def _new_name(descriptor: int) -> str:
    """A path of an open file that was never used before.

    The loader knows libraries by their paths, and returns the old one for a path that it has seen:
    numbers of descriptors come again. So a serial number is written in slashes and dots.
    """
    bits = f"{next(_numbers):b}"
    spelled = "".join("/." if bit == "1" else "/" for bit in bits)
    return f"/proc/self{spelled}/fd/{descriptor}"
