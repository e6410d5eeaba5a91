"""`qpc targets`."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the CPUs and boards that there is code for, with what each needs."""
    from json import dumps

    from qpc.targets.listing import list_targets, listing_text

    lines = list_targets()
    if json:
        typer.echo(dumps([line.to_json() for line in lines], indent=2))
        return
    typer.echo(f"{listing_text(lines)}\n\n{_MORE}")


_MORE = """* runs on this machine. A board of your own is described in a YAML file, whose name
is given in place of a target's:
  name: my-board
  like: cortex-m4
  flash: 512 KiB
  ram: 96 KiB"""
