"""`qpc doctor`."""

from __future__ import annotations

from dataclasses import asdict

from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

EXAMPLE = "qpc doctor"


def command(reporter: Reporter) -> Answer:
    """Say what this machine has, what is missing, and how to mend it."""
    reporter.lost = "not everything was looked at"
    from rich.table import Table
    from rich.text import Text

    with reporter.phase("looking at this machine"):
        from qpc.doctor import diagnose

        checks = diagnose()
    table = Table("", "check", "found", box=None)
    for check in checks:
        mark = Text("ok", "green") if check.ok else Text("no", "bold red")
        # Text, not str: square brackets in what was found are not markup.
        table.add_row(mark, Text(check.name), Text(check.found))
    failed = [check for check in checks if not check.ok]
    mending = [f"\nTo mend {check.name!r}:\n  {check.fix}" for check in failed]
    return Answer(
        {"checks": [asdict(check) for check in checks]},
        (table, *mending),
        then=() if failed else ("qpc demo --quick",),
        status=1 if failed else 0,
    )
