"""Log records of QPC on stderr, as text or as JSON lines, while a command runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from qpc.terminal.reporter import Reporter

_ROOT = "qpc"
_PROGRESS = "qpc.progress"
"""The logger of what tells its progress: records at INFO with `done` and `total`."""


class _Notes(logging.Handler):
    """Records as notes of a reporter, which keeps them apart from its moving line."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter
        self.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self._reporter.note(text)


class _Told(logging.Handler):
    """Progress of work that knows no reporter."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        done, total = getattr(record, "done", None), getattr(record, "total", None)
        if isinstance(done, int) and isinstance(total, int):
            self._reporter.told(done, total)


class _JsonLines(logging.Handler):
    """Records as JSON objects, each in a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        values = {
            "event": "log",
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        self._stream.write(json.dumps(values) + "\n")
        self._stream.flush()


@contextmanager
def logging_to(reporter: Reporter, stream: TextIO, level: int, *, as_json: bool) -> Iterator[None]:
    """Show the records of QPC's loggers from a level on; afterwards all is as before."""
    handler = _JsonLines(stream) if as_json else _Notes(reporter)
    with _handled(_ROOT, handler, level), _handled(_PROGRESS, _Told(reporter), logging.INFO):
        yield


@contextmanager
def _handled(name: str, handler: logging.Handler, level: int) -> Iterator[None]:
    """Give the records of a logger from a level on to a handler, and to no other."""
    logger = logging.getLogger(name)
    before, passed_on = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = passed_on
