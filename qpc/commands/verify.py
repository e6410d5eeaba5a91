"""`qpc verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    library: Annotated[Path, typer.Argument(help="Folder of an exported library.")],
    on: Annotated[
        str | None, typer.Option(help="Run it there: ssh://user@host; here by default.")
    ] = None,
    cpu: Annotated[str | None, typer.Option(help="QEMU's name of a CPU to emulate.")] = None,
    cc: Annotated[str | None, typer.Option(help="The C compiler for the target.")] = None,
) -> None:
    """Replay the test vectors of an exported library, and demand every byte."""
    from qpc.backends.deploy.verify import Where, verify

    typer.echo(str(verify(library, Where(on, cpu, cc))))
