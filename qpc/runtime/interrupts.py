"""Ctrl-C that waits: for steps that would leave something half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_Handler = Callable[[int, FrameType | None], Any]


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Let Python's handlers of signals, such as that of Ctrl-C, wait until the block has ended.

    Handlers run in the main thread: in others there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, _Handler] = {}
    came: list[int] = []

    def wait(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    try:
        for valid in signal.valid_signals():
            if callable(handler := signal.getsignal(valid)):
                handlers[valid] = handler
                signal.signal(valid, wait)
        yield
    finally:
        for number in sorted(handlers, key=lambda number: number == signal.SIGINT):
            if signal.getsignal(number) is wait:
                signal.signal(number, handlers[number])
        for number in came:
            handlers[number](number, None)
