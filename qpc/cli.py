"""The `qpc` command.

Nothing heavy is imported at the top: `qpc --help` must not wait for torch or TVM. Each command
imports what it needs when it runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from qpc.version import VERSION

app = typer.Typer(
    name="qpc",
    help="Quantize and prune PyTorch models, and compile them to int8 machine code.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; an error that QPC raised on purpose is printed without a traceback."""
    try:
        app()
    except Exception as error:
        from qpc.errors import QPCError

        if not isinstance(error, QPCError):
            raise
        typer.echo(f"error: {error.full_text}", err=True)
        raise SystemExit(1) from None


@app.command()
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Use 200 test images instead of all.")
    ] = False,
) -> None:
    """Quantize and compile a ResNet-18, and compare its accuracy, size and speed."""
    from qpc.demo import run

    run(quick=quick)


@app.command()
def doctor() -> None:
    """Say what this machine has, what is missing, and how to mend it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from qpc.doctor import diagnose

    checks = diagnose()
    table = Table("", "check", "found", box=None)
    for check in checks:
        mark = Text("ok", "green") if check.ok else Text("no", "bold red")
        # Text, not str: square brackets in what was found are not markup.
        table.add_row(mark, Text(check.name), Text(check.found))
    console = Console()
    console.print(table)
    failed = [check for check in checks if not check.ok]
    for check in failed:
        console.print(f"\nTo mend {check.name!r}:", style="yellow")
        # Unwrapped, so that a command can be copied.
        console.print(Text(f"  {check.fix}"), soft_wrap=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def bench(
    model: Annotated[Path, typer.Argument(help="Folder of a quantized graph or compiled model.")],
    graph: Annotated[
        Path | None, typer.Option(help="The graph that a compiled model was made from.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="Another runtime; all installed ones by default.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of all.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, in each of which all run.")] = 50,
    json: Annotated[Path | None, typer.Option(help="Write the result to this file, too.")] = None,
) -> None:
    """Compare a model's speed with other runtimes, in turns, on the same threads."""
    from json import dumps

    from qpc.bench.command import Request, run

    if json is not None and (json.is_dir() or not os.access(json.parent, os.W_OK)):
        # Said before minutes of measurement, not after.
        raise typer.BadParameter(f"cannot write to {str(json)!r}", param_hint="--json")
    answer = run(Request(model, graph, threads, batch, rounds, peer or None))
    typer.echo(answer.text)
    for note in answer.notes:
        typer.echo(note, err=True)
    if json is not None:
        json.write_text(dumps(answer.data, indent=2) + "\n", encoding="utf-8")


@app.command()
def version() -> None:
    """Print QPC's version."""
    typer.echo(f"qpc {VERSION}")
