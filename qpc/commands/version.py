"""`qpc version`."""

from __future__ import annotations

from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter
from qpc.version import VERSION

EXAMPLE = "qpc version"


def command(reporter: Reporter) -> Answer:
    """Print QPC's version."""
    return Answer({}, (f"qpc {VERSION}",))
