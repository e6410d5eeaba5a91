"""`qpc targets`."""

from __future__ import annotations

from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

EXAMPLE = "qpc targets --json"


def command(reporter: Reporter) -> Answer:
    """List the CPUs and boards that there is code for, with what each needs."""
    from qpc.targets.listing import list_targets, listing_text

    lines = list_targets()
    data = {"targets": [line.to_json() for line in lines]}
    return Answer(
        data,
        (f"{listing_text(lines)}\n\n{_MORE}",),
        then=("qpc compile MODEL --target TARGET --out FOLDER",),
    )


_MORE = """* runs on this machine. A board of your own is described in a YAML file, whose name
is given in place of a target's:
  name: my-board
  like: cortex-m4
  flash: 512 KiB
  ram: 96 KiB"""
