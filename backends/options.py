"""What is asked of a compilation besides graph and target, the same for every backend."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from qpc.errors import BackendError

Cache: TypeAlias = bool | str | os.PathLike[str]
"""Whether to keep kernels in the default folder, or which folder to keep them in."""

DEFAULT_SECONDS = 60.0
_MOST_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class CompileOptions:
    """The settings of one compilation. Backends for which one has no meaning ignore it.

    batch_sizes: the batch sizes that the model will take, and no others.
    threads: how many threads a call may use.
    cache: whether to keep what was compiled for the next time, or the folder for it.
    tune: whether to measure which code is fastest, or for how many seconds at the most.

    Raises BackendError for values that none can have.
    """

    batch_sizes: Sequence[int] = (1,)
    threads: int = 1
    cache: Cache = True
    tune: bool | float = False

    def __post_init__(self) -> None:
        seconds_of(self.tune)
        checked_cache(self.cache)
        if not is_count(self.threads):
            raise BackendError(f"threads must be a positive number, got {self.threads!r}")
        object.__setattr__(self, "batch_sizes", checked_batch_sizes(self.batch_sizes))

    @property
    def seconds(self) -> float:
        """How long may be measured, in seconds; 0 if nothing is to be."""
        return seconds_of(self.tune)


def seconds_of(tune: object) -> float:
    """The time that a `tune=` argument allows."""
    if isinstance(tune, bool):
        return DEFAULT_SECONDS if tune else 0.0
    if not isinstance(tune, int | float) or not 0 < tune <= _MOST_SECONDS:
        raise BackendError(
            f"tune must be a positive number of seconds or a bool, got {tune!r}",
            fix=f"tune=True for {DEFAULT_SECONDS:g} seconds; {_MOST_SECONDS} at the most",
        )
    return float(tune)


def checked_cache(cache: object) -> bool | str:
    """A bool, or the path of what is, or could be, a folder; raises BackendError for all else."""
    if isinstance(cache, bool):
        return cache
    path = os.fspath(cache) if isinstance(cache, os.PathLike) else cache
    if not isinstance(path, str) or not path or "\0" in path:
        raise BackendError(f"cache must be a bool or the path of a folder, got {cache!r}")
    if os.path.exists(path) and not os.path.isdir(path):
        raise BackendError(
            f"cache must be the path of a folder, but {path!r} is a file",
            fix="cache=True for the default folder, or another name",
        )
    return path


def checked_batch_sizes(batch_sizes: object) -> tuple[int, ...]:
    """The same; raises BackendError for anything but one or more positive whole numbers."""
    if isinstance(batch_sizes, int):
        raise BackendError(
            f"batch sizes are several numbers, got {batch_sizes!r}",
            fix=f"batch_sizes=({batch_sizes},)",
        )
    given = tuple(batch_sizes) if isinstance(batch_sizes, Iterable) else (batch_sizes,)
    if not given or not all(is_count(b) for b in given):
        raise BackendError(f"batch sizes must be positive numbers, got {given!r}")
    return given


def is_count(value: object) -> bool:
    """Whether a value is a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
