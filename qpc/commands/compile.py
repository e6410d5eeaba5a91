"""`qpc compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[Path, typer.Argument(help="Folder of a graph that qpc.save_graph wrote.")],
    target: Annotated[str, typer.Option(help="A name that `qpc targets` lists, or a YAML file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the library.")],
    name: Annotated[
        str | None, typer.Option(help="What its symbols begin with; the folder's name by default.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Among how many a call is shared.")] = 1,
    vectors: Annotated[int, typer.Option(min=1, help="How many test vectors.")] = 2,
    emit: Annotated[
        str, typer.Option(help="objects: a library of machine code; c: one file of C99.")
    ] = "objects",
) -> None:
    """Compile a saved graph to a library for C programs, with header and test vectors."""
    from qpc.backends.tvm.compat import require_tvm
    from qpc.targets import Target

    chosen = Target.parse(target)
    require_tvm()  # first, as this import must not be interrupted
    from qpc.deployment import export_saved

    options = {"name": name, "batch": batch, "threads": threads, "vectors": vectors, "form": emit}
    typer.echo(f"compiling for {chosen.name}", err=True)
    result = export_saved(model, chosen, out, **options)
    typer.echo(result.report)
    typer.echo(f"now: qpc verify {str(out)!r}")
