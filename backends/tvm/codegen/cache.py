"""Machine code of kernels on disk, found again by what it was made from.

Every kernel is an entry of its own, so that models share them. The name of an entry is a hash of
everything that decides the code; the entry starts with a hash of its name and the rest of it, so
that one that is damaged, or another's, is noticed and made again. Entries are written beside their
place and renamed: writers at the same time do not see each other's halves, and the last one wins,
with the same content.

What is found here is run, so it must come from this user, or from root. A folder or an entry that
belongs to others, or that others may write to, is not used. Entries are looked at when they are
open: whoever can exchange folders above them still cannot make a file that belongs to this user.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import warnings
from pathlib import Path

from qpc.backends.options import Cache, checked_cache
from qpc.errors import ArtifactError
from qpc.files import read_regular, replace_file
from qpc.staging import clean_up

LIMIT_BYTES = 256 * 2**20
"""Above this the entries that were not used for the longest time go; a kernel has some 10 KB."""
_KEPT_SHARE = 0.75  # of the limit, after some were removed, so that this happens seldom
_ENTRY_BYTES = 64 * 2**20  # more is no kernel
_DIGEST_BYTES = hashlib.sha256().digest_size
_SUFFIX = ".o"
_ENTRY = re.compile(rf"[0-9a-f]{{{2 * _DIGEST_BYTES}}}{re.escape(_SUFFIX)}")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ROOT = 0


def folder_of(cache: object) -> Path | None:
    """The folder that a `cache=` argument means; None if nothing is to be kept.

    Raises BackendError for anything but a bool or a path of what is, or could be, a folder.
    """
    path = checked_cache(cache)
    if isinstance(path, bool):
        return default_folder() if path else None
    return Path(path)


def default_folder() -> Path | None:
    """`$QPC_CACHE_DIR`, or `qpc` in `$XDG_CACHE_HOME`, or `~/.cache/qpc`; None without a home."""
    if chosen := os.environ.get("QPC_CACHE_DIR"):
        return Path(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "qpc"
    try:
        home = Path.home()
    except RuntimeError:  # a user without an entry in the list of users
        home = Path()
    if home.is_absolute():
        return home / ".cache" / "qpc"
    say_once("nothing is kept for the next time: this user has no home directory")
    return None


def open_cache(cache: Cache) -> KernelCache:
    """The cache that a `cache=` argument means; raises as `folder_of`."""
    folder = folder_of(cache)
    return KernelCache(None if folder is None else folder / "kernels")


class KernelCache:
    """Entries by key in a folder, or nothing at all without a folder.

    A folder that cannot be written to, or must not be trusted, is no error: the compiler works
    without it, and says so once.

    renews: whether entries are made anew even if they are there.
    """

    def __init__(
        self, folder: Path | None, limit_bytes: int = LIMIT_BYTES, *, renews: bool = False
    ) -> None:
        self._folder, self._limit, self._renews = folder, limit_bytes, renews
        self._writes, self._wrote = True, False
        self.found = 0
        """How many entries it has given."""
        self._give_up_if_not_trusted()

    def get(self, key: str) -> bytes | None:
        """The entry, or None if there is none that is whole and can be trusted."""
        if self._folder is None or self._renews:
            return None
        file = self._folder / f"{key}{_SUFFIX}"
        try:
            content = read_regular(file, _ENTRY_BYTES, why_not=say_why_not)
        except ArtifactError:
            return None
        digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if digest != _digest(key, data):
            return None
        with contextlib.suppress(OSError):  # where one may only read
            os.utime(file)  # used just now: see `trim`
        self.found += 1
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep an entry, in place of one that may be there."""
        for last in (False, False, True):
            if self._folder is None or not self._writes:
                return
            try:
                self._put(self._folder, key, data)
            except OSError as e:
                if isinstance(e, FileNotFoundError) and not last:
                    continue  # somebody clears the cache just now
                say_not_kept("kernels are not kept", self._folder, e)
                self._writes = False
            return

    def _put(self, folder: Path, key: str, data: bytes) -> None:
        make_private(folder)
        self._give_up_if_not_trusted()
        if self._folder is not None:
            content = _digest(key, data) + data
            replace_file(folder / f"{key}{_SUFFIX}", content, mode=0o600, quick=True)
            self._wrote = True

    def renewed(self) -> KernelCache:
        """The same folder, whose entries are all made anew."""
        return KernelCache(self._folder, self._limit, renews=True)

    def trim(self) -> None:
        """Remove the oldest entries if this cache wrote some and all together are too large.

        What is no entry is left alone, but for what dead writers left behind.
        """
        if self._folder is None or not self._wrote:
            return
        clean_up(self._folder)
        found = self._entries(self._folder)
        total = sum(size for _, size, _ in found)
        if total <= self._limit:
            return
        for _, size, file in sorted(found):
            with contextlib.suppress(OSError):  # another process was quicker, or it is not ours
                os.unlink(file)
                total -= size
            if total <= self._limit * _KEPT_SHARE:
                return

    def _entries(self, folder: Path) -> list[tuple[float, int, str]]:
        """When each entry was used last, its size and its path."""
        found = []
        with contextlib.suppress(OSError), os.scandir(folder) as files:
            for file in files:
                with contextlib.suppress(OSError):  # another process removed it
                    about = file.stat(follow_symlinks=False)
                    if _ENTRY.fullmatch(file.name) and stat.S_ISREG(about.st_mode):
                        found.append((about.st_mtime, about.st_size, file.path))
        return found

    def _give_up_if_not_trusted(self) -> None:
        if self._folder is not None and not is_private(self._folder):
            self._folder = None


def _digest(key: str, data: bytes) -> bytes:
    return hashlib.sha256(key.encode() + data).digest()


# --- what can be trusted --------------------------------------------------------------------------


def is_private(folder: Path) -> bool:
    """Whether only this user and root can write to a folder, or there is none; if not, says so."""
    try:
        about = os.stat(folder)
    except OSError:
        return True
    return not stat.S_ISDIR(about.st_mode) or say_why_not(about, folder) is None


def make_private(folder: Path) -> None:
    """Make a folder, if there is none, that only this user can write to or read; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def why_not_private(about: os.stat_result) -> str | None:
    """Why somebody else may have written a file or folder, or None if nobody can have."""
    if about.st_uid not in (_ROOT, os.geteuid()):
        return f"it belongs to another user, of number {about.st_uid}"
    if about.st_mode & _OTHERS_WRITE:
        return "other users may write to it"
    return None


def say_why_not(about: os.stat_result, path: Path) -> str | None:
    """The same, and warn once."""
    if reason := why_not_private(about):
        say_once(
            f"what is kept in {str(path)!r} is not used, as it would be run: {reason}; remove it, "
            "or `chmod go-w` it, or set QPC_CACHE_DIR to a folder of your own"
        )
    return reason


# --- warnings -------------------------------------------------------------------------------------

_told: set[str] = set()


def say_not_kept(what: str, folder: Path | None, error: OSError) -> None:
    """Warn once that something is not kept in a folder."""
    say_once(
        f"{what} for the next time: cannot write to {str(folder)!r} ({error.strerror or error}); "
        "set QPC_CACHE_DIR to a folder that can be written to, or compile with cache=False"
    )


def say_once(text: str) -> None:
    """Warn, unless this process did before."""
    if text not in _told:
        _told.add(text)
        warnings.warn(text, stacklevel=2)
