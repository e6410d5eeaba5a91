"""`qpc targets`."""

from __future__ import annotations

from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

EXAMPLE = "qpc targets --json"


def command(reporter: Reporter) -> Answer:
    """List the CPUs and boards that there is code for, with what each needs."""
    from qpc.targets.installed import all_installed
    from qpc.targets.listing import list_targets, listing_text

    more, problems = all_installed()
    lines = list_targets(more)
    data = {"targets": [line.to_json() for line in lines]}
    return Answer(
        data,
        (f"{listing_text(lines)}\n\n{_MORE}",),
        notes=tuple(problem.what for problem in problems),
        then=("qpc compile MODEL --target TARGET --out FOLDER",),
    )


_MORE = """* runs on this machine. A board of your own is described in a YAML file, whose name
is given in place of a target's:
  name: my-board
  like: cortex-m4
  flash: 512 KiB
  ram: 96 KiB"""
