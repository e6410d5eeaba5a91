"""Machine code of kernels on disk, found again by what it was made from.

Every kernel is an entry of its own, so that models share them. The name of an entry is a hash of
everything that decides the code; the entry starts with a hash of the rest of it, so that a damaged
one is noticed and made again. Entries are written to a file of another name first: writers at the
same time do not see each other's halves, and the last one wins, with the same content.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from pathlib import Path
from typing import TypeAlias

Cache: TypeAlias = bool | str | os.PathLike[str]
"""Whether to keep kernels in the default folder, or which folder to keep them in."""

LIMIT_BYTES = 256 * 2**20
"""Above this the entries that were not used for the longest time go; a kernel has some 10 KB."""
_KEPT_SHARE = 0.75  # of the limit, after some were removed, so that this happens seldom
_DIGEST_BYTES = hashlib.sha256().digest_size
_SUFFIX = ".o"


def default_folder() -> Path:
    """`$QPC_CACHE_DIR`, or `qpc` in `$XDG_CACHE_HOME`, or `~/.cache/qpc`."""
    if chosen := os.environ.get("QPC_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qpc"


def open_cache(cache: Cache) -> KernelCache:
    """The cache that a `cache=` argument means."""
    if cache is False:
        return KernelCache(None)
    return KernelCache((default_folder() if cache is True else Path(cache)) / "kernels")


class KernelCache:
    """Entries by key in a folder, or nothing at all without a folder.

    A folder that cannot be written to is no error: the compiler works without it, and says so once.
    """

    def __init__(self, folder: Path | None, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder, self._limit = folder, limit_bytes
        self._wrote = False

    def get(self, key: str) -> bytes | None:
        """The entry, or None if there is none that is whole."""
        if self._folder is None:
            return None
        file = self._folder / f"{key}{_SUFFIX}"
        try:
            content = file.read_bytes()
            os.utime(file)  # used just now: see `trim`
        except OSError:
            return None
        digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return data if hashlib.sha256(data).digest() == digest else None

    def put(self, key: str, data: bytes) -> None:
        """Keep an entry, in place of one that may be there."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                file.write(hashlib.sha256(data).digest() + data)
            os.replace(file.name, self._folder / f"{key}{_SUFFIX}")
        except OSError as e:
            _say_once(self._folder, e)
            self._folder = None
        else:
            self._wrote = True

    def trim(self) -> None:
        """Remove the oldest entries if this cache wrote some and all together are too large."""
        if self._folder is None or not self._wrote:
            return
        found = []
        for file in self._folder.iterdir():
            try:
                about = file.stat()
            except OSError:
                continue  # another process removed it
            found.append((about.st_mtime, about.st_size, file))
        total = sum(size for _, size, _ in found)
        if total <= self._limit:
            return
        for _, size, file in sorted(found):
            file.unlink(missing_ok=True)
            total -= size
            if total <= self._limit * _KEPT_SHARE:
                return


_told: set[Path] = set()


def _say_once(folder: Path, error: OSError) -> None:
    if folder not in _told:
        _told.add(folder)
        warnings.warn(
            f"kernels are not kept for the next time: cannot write to {str(folder)!r} "
            f"({error.strerror or error}); set QPC_CACHE_DIR to a folder that can be written to, "
            "or compile with cache=False",
            stacklevel=2,
        )
