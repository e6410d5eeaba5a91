"""Writers that die: at every call of the operating system that changes a file or a folder."""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qpc import staging

_CALLS = "mkdir open write fsync rename replace unlink rmdir chmod".split()  # noqa: SIM905


class Killed(BaseException):
    """The process is dead: nothing after this changes a file."""


def deaths(action: Callable[[], object]) -> Iterator[int]:
    """Run `action` again and again; it dies at its first call, its second, until it gets through.

    Writing dies halfway. Yields after each death how many calls went well. What the dead process
    had open is closed, as the operating system sees to it.
    """
    for step in itertools.count():
        with pytest.MonkeyPatch.context() as patch:
            calls = _Calls(step)
            for name in _CALLS:
                patch.setattr(os, name, calls.wrapped(getattr(os, name), torn=name == "write"))
            patch.setattr(fcntl, "flock", calls.wrapped(fcntl.flock))
            patch.setattr(staging, "_renameat2", calls.wrapped(staging._renameat2))
            try:
                action()
            except Killed:
                died = True
            else:
                died = False
        if not died:
            return
        yield step


class _Calls:
    def __init__(self, allowed: int) -> None:
        self._left = allowed

    def wrapped(self, call: Callable[..., Any], *, torn: bool = False) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._left == 0 and torn:
                file, data = args
                call(file, data[: len(data) // 2])
            if self._left <= 0:
                self._left = -1
                raise Killed
            self._left -= 1
            return call(*args, **kwargs)

        return counted
