"""The `qpc` command.

Nothing heavy is imported at the top: `qpc --help` must not wait for torch or TVM. Each command
imports what it needs when it runs, after it has looked at what it was given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from qpc.commands import compile, targets, verify
from qpc.errors import QPCError
from qpc.version import VERSION

_INTERRUPTED = 130  # as shells count a program that SIGINT ended
_KERNELS_KEPT = "kernels that were compiled are kept for the next time"

app = typer.Typer(
    name="qpc",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; an error that QPC raised on purpose is printed without a traceback."""
    try:
        app()
    except QPCError as error:
        typer.echo(f"error: {error.full_text}", err=True)
        raise SystemExit(1) from None
    except ImportError as error:
        typer.echo(f"error: {error}\n  fix: `qpc doctor` says what to install", err=True)
        raise SystemExit(1) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def qpc(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Quantize and prune PyTorch models, and compile them to int8 machine code."""


@contextmanager
def _saying_on_interrupt(lost: str, kept: str = "") -> Iterator[None]:
    """End on Ctrl-C with one line: what is lost, which notes know better, and what is kept."""
    try:
        yield
    except BaseException as error:
        if (interrupt := _interrupt_behind(error)) is None:
            raise
        said = [*(getattr(interrupt, "__notes__", None) or [lost]), *filter(None, [kept])]
        typer.echo(f"interrupted: {'; '.join(said)}", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that became this error: imports turn it into errors of their own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


app.command("targets")(targets.command)
app.command("compile")(compile.command)
app.command("verify")(verify.command)


@app.command()
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Use 200 test images instead of all.")
    ] = False,
) -> None:
    """Quantize and compile a ResNet-18, and compare its accuracy, size and speed."""
    with _saying_on_interrupt("nothing is measured", _KERNELS_KEPT):
        from qpc.demo import run

        run(quick=quick)


@app.command()
def doctor() -> None:
    """Say what this machine has, what is missing, and how to mend it."""
    with _saying_on_interrupt("not everything was looked at"):
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
    model: Annotated[
        Path, typer.Argument(help="Folder of a quantized graph, compiled model or library.")
    ],
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
    on: Annotated[
        str | None, typer.Option(help="Where to time an exported library: ssh://user@host.")
    ] = None,
) -> None:
    """Compare a model's speed with other runtimes, in turns, on the same threads.

    Exported libraries are timed by themselves, here or on a board that has a shell.
    """
    if on is not None or (model / "library.json").is_file():
        with _saying_on_interrupt("nothing is measured yet"):
            from qpc.backends.deploy.verify import Where, time_library

            timed = time_library(model, Where(on), calls=rounds)
        typer.echo(str(timed))
        if json is not None:
            _write_json(json, timed.to_json())
        return
    with _saying_on_interrupt("nothing is measured yet", _KERNELS_KEPT):
        from qpc.bench.request import Request

        peers = list(dict.fromkeys(peer or ())) or None
        request = Request(model, graph, threads, batch, rounds, peers)
        request.check()
        if json is not None:
            _check_writable(json)
        from qpc.backends.tvm.compat import require_tvm

        require_tvm()  # first, as this import must not be interrupted
        from qpc.bench.command import run

        answer = run(request)
    typer.echo(answer.text)
    for note in answer.notes:
        typer.echo(note, err=True)
    if json is not None:
        _write_json(json, answer.data)


@app.command()
def compress(
    recipe: Annotated[Path, typer.Argument(help="A YAML file that names model, data and steps.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for all that comes of it; beside the recipe by default."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the result to this file, too.")] = None,
) -> None:
    """Prune, train and quantize a model by a recipe; a run that was interrupted goes on."""
    folder = out if out is not None else recipe.with_name(f"{recipe.stem}-compressed")
    kept = f"what is done is kept in {str(folder)!r}, and the same command goes on from there"
    with _saying_on_interrupt("the step that ran", kept):
        if json is not None:
            _check_writable(json)
        from qpc.compression.command import run

        answer = run(recipe, folder)
    if answer.first:
        typer.echo(answer.text)
    if json is not None and answer.first:
        _write_json(json, answer.data)
    if answer.reached is False and answer.first:
        typer.echo("error: the target was not reached", err=True)
        raise typer.Exit(1)


def _check_writable(file: Path) -> None:
    """Say before minutes of measurement, not after, that a file cannot be written."""
    try:
        if file.exists():
            with file.open("a"):
                return
        with tempfile.TemporaryFile(dir=file.parent):
            return
    except OSError as error:
        why = error.strerror or error
        hint = "--json"
        raise typer.BadParameter(f"cannot write to {str(file)!r}: {why}", param_hint=hint) from None


def _write_json(file: Path, data: dict[str, Any]) -> None:
    from json import dumps

    try:
        file.write_text(dumps(data, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        typer.echo(f"error: cannot write to {str(file)!r}: {error.strerror or error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def version() -> None:
    """Print QPC's version."""
    typer.echo(f"qpc {VERSION}")
