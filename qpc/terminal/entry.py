"""From a function that answers to a command: common options, exit codes, errors, interrupts.

A module of `qpc.commands` has the function `command(reporter, ...)`, which returns an `Answer`. All
else is the same for all commands, and stands here.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, get_type_hints

import typer

from qpc.errors import QPCError, VerificationError
from qpc.terminal.answer import Answer
from qpc.terminal.logs import logging_to
from qpc.terminal.plain import plain
from qpc.terminal.reporter import Reporter
from qpc.terminal.settings_file import read_settings
from qpc.terminal.sinks import sink_for
from qpc.version import VERSION

if TYPE_CHECKING:
    from qpc.terminal.answer import Shown

WELL, MISTAKE, USAGE, NOT_VERIFIED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: all is well; what was asked for cannot be had; wrong usage; a verification failed;
Ctrl-C, as shells count it."""
_PIPE_WIDTH = 120
"""Characters of a line that goes to a file or another program, which have no width of their own."""


class LogFormat(StrEnum):
    """How log records and progress look on stderr."""

    TEXT = "text"
    JSON = "json"


_PANEL = "Output"
_COMMON = {
    "settings": Annotated[
        Path | None,
        typer.Option(
            help="YAML with options by name, as commands keep them; what is written here wins.",
            is_eager=True,
            callback=read_settings,
            rich_help_panel=_PANEL,
        ),
    ],
    "json": Annotated[
        bool,
        typer.Option(
            "--json", help="Print JSON, and nothing else on stdout.", rich_help_panel=_PANEL
        ),
    ],
    "verbose": Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Say more of what is done.", rich_help_panel=_PANEL),
    ],
    "quiet": Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Print results and errors only.", rich_help_panel=_PANEL
        ),
    ],
    "log_format": Annotated[
        LogFormat,
        typer.Option(help="How progress and logs look on stderr.", rich_help_panel=_PANEL),
    ],
}
_DEFAULTS: Mapping[str, object] = {
    "settings": None,
    "json": False,
    "verbose": False,
    "quiet": False,
    "log_format": LogFormat.TEXT,
}


def callback_of(function: Callable[..., Answer]) -> Callable[..., None]:
    """What Typer calls for a command: its own options, and those of all commands.

    function: takes a Reporter, and then the command's arguments by name. A parameter whose type is
    a dataclass stands for its fields; its method `check` says what is wrong with them,
    before anything is imported.
    """

    def callback(**given: Any) -> None:
        common = {name: given.pop(name) for name in _COMMON}
        settings = {name: plain(value) for name, value in given.items() if value is not None}
        for name, kind in groups.items():
            given[name] = kind(**{f.name: given.pop(f.name) for f in fields(kind)})

        def work(reporter: Reporter) -> Answer:
            reporter.settings = settings
            for name in groups:
                given[name].check()
            return function(reporter, **given)

        _run(work, **common)

    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    groups: dict[str, Any] = {p.name: p.annotation for p in own if is_dataclass(p.annotation)}
    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter(name, keyword, default=_DEFAULTS[name], annotation=kind)
        for name, kind in _COMMON.items()
    ]
    flat = [q for p in own for q in (_fields(p.annotation) if p.name in groups else [p])]
    parameters = [*(p.replace(kind=keyword) for p in flat), *shared]
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions may have one
    callback.__annotations__ = {p.name: p.annotation for p in parameters}
    callback.__doc__ = function.__doc__
    return callback


def _fields(kind: type[Any]) -> list[inspect.Parameter]:
    """The fields of a dataclass as parameters."""
    types = get_type_hints(kind, include_extras=True)
    none = inspect.Parameter.empty
    return [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=none if f.default is MISSING else f.default,
            annotation=types[f.name],
        )
        for f in fields(kind)
    ]


def _run(
    work: Callable[[Reporter], Answer],
    *,
    settings: object,
    json: bool,
    verbose: bool,
    quiet: bool,
    log_format: LogFormat,
) -> None:
    if verbose and quiet:
        raise typer.BadParameter("it says the opposite of --quiet", param_hint="--verbose")
    as_json = log_format is LogFormat.JSON
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    with (
        Reporter(sink_for(sys.stderr, quiet=quiet, as_json=as_json)) as reporter,
        _said(reporter, json=json),
        logging_to(reporter, sys.stderr, level, as_json=as_json),
    ):
        answer = work(reporter)
        if as_json and not quiet:
            for note in answer.notes:
                reporter.note(note)
    if json and answer.data is not None:
        _print_json(answer.data, sys.stdout)
    elif not json:
        _print(answer.shown)
    if not (quiet or as_json):
        for note in answer.notes:
            typer.echo(note, err=True)
    if answer.problem:
        typer.echo(f"error: {answer.problem}", err=True)
    elif answer.then and not json and not quiet:
        _print_next(answer.then)
    if answer.status:
        raise typer.Exit(answer.status)


# --- how commands end -----------------------------------------------------------------------------


@contextmanager
def _said(reporter: Reporter, *, json: bool) -> Iterator[None]:
    """Errors in words, without a traceback; with --json, as JSON too."""
    try:
        yield
    except BaseException as error:
        reporter.close()
        if (interrupt := _interrupt_behind(error)) is not None:
            _end_interrupted(reporter, interrupt, json=json)
        if isinstance(error, QPCError):
            status = NOT_VERIFIED if isinstance(error, VerificationError) else MISTAKE
            _end(error.what, error.full_text, error.fix, status, json=json)
        if isinstance(error, ImportError):
            fix = "`qpc doctor` says what to install"
            _end(str(error), f"{error}\n  fix: {fix}", fix, MISTAKE, json=json)
        raise


def _end(what: str, full: str, fix: str | None, status: int, *, json: bool) -> None:
    typer.echo(f"error: {full}", err=True)
    if json:
        _print_json({"error": {"what": what, "fix": fix}}, sys.stdout)
    raise typer.Exit(status) from None


def _end_interrupted(reporter: Reporter, interrupt: KeyboardInterrupt, *, json: bool) -> None:
    """One line: what is lost, which notes of the interrupt know better, and how to go on."""
    lost = list(getattr(interrupt, "__notes__", None) or [reporter.lost])
    text = "; ".join([*lost, *filter(None, [reporter.kept])])
    typer.echo(f"interrupted: {text}", err=True)
    if json:
        _print_json({"error": {"what": f"interrupted: {text}", "fix": None}}, sys.stdout)
    raise typer.Exit(INTERRUPTED) from None


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that became this error: imports turn it into errors of their own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


# --- printing -------------------------------------------------------------------------------------


def _print_json(data: Mapping[str, Any], stream: TextIO) -> None:
    stream.write(dumps({"qpc": VERSION, **data}, indent=2, allow_nan=False) + "\n")
    stream.flush()


def _print(shown: tuple[Shown, ...]) -> None:
    if all(isinstance(each, str) for each in shown):
        for each in shown:
            typer.echo(each)
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    for each in shown:
        if isinstance(each, str):
            typer.echo(each)
        elif callable(each):
            each(console)
        else:
            console.print(each)


def _print_next(commands: tuple[str, ...]) -> None:
    """Unwrapped, so that they can be copied."""
    typer.echo("\nNext:", err=True)
    for command in commands:
        typer.echo(f"  {command}", err=True)
