"""Ctrl-C that waits: for steps that would leave something half done, or end the process."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_Handler = Callable[[int, FrameType | None], Any]

_FATAL = "find_torch_dispatch_rule"
"""What C++ of PyTorch 2.13 calls where it lets no exception through: one ends the process."""
_SOON_S = 0.001  # the function looks into two dictionaries


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Let Python's handlers of signals, such as that of Ctrl-C, wait until the block has ended.

    Handlers run in the main thread: in others there is nothing to do.
    """
    handlers: dict[int, _Handler] = {}
    came: list[int] = []

    def wait(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    try:
        with _handled(handlers, wait):
            yield
    finally:
        for number in came:
            handlers[number](number, None)


@contextlib.contextmanager
def signals_that_end_no_process() -> Iterator[None]:
    """Let handlers of signals come a moment later where an exception of theirs would be fatal.

    That is inside of what PyTorch calls while it traces and while it finds shapes.
    """
    handlers: dict[int, _Handler] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        above = frame
        while above is not None and above.f_code.co_name != _FATAL:
            above = above.f_back
        if above is None:
            handlers[number](number, frame)
        else:
            threading.Timer(_SOON_S, os.kill, (os.getpid(), number)).start()

    with _handled(handlers, handle):
        yield


@contextlib.contextmanager
def _handled(handlers: dict[int, _Handler], by: _Handler) -> Iterator[None]:
    """Have one function handle all signals that Python handles; `handlers` gets what did before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        for number in map(int, signal.valid_signals()):
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler
                signal.signal(number, by)
        yield
    finally:
        for number in sorted(handlers, key=lambda number: number == signal.SIGINT):
            if signal.getsignal(number) is by:
                signal.signal(number, handlers[number])
