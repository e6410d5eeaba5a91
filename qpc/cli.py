"""The `qpc` command.

Nothing heavy is imported at the top: `qpc --help` must not wait for torch or TVM, and needs the
names of commands and one line about each. The module of a command (`qpc.commands`) is imported when
it is called, and imports what it needs when it runs, after it has looked at what it was given.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from qpc.commands import COMMANDS
from qpc.errors import QPCError
from qpc.terminal.entry import callback_of
from qpc.version import VERSION


class Commands(TyperGroup):
    """All commands by name: whole when they are called, until then only a line about each."""

    def __init__(self, **attributes: Any) -> None:
        known = {
            name: TyperCommand(name, help=about.line, rich_help_panel=about.panel)
            for name, about in COMMANDS.items()
        }
        super().__init__(**{**attributes, "commands": known})

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The list of all commands under their headings.

        Typer would write it with Rich, whose import takes two thirds of the time of `qpc --help`.
        """
        self.format_usage(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text(self.help or "")
        for panel in dict.fromkeys(about.panel for about in COMMANDS.values()):
            with formatter.section(panel):
                formatter.write_dl(
                    [(name, about.line) for name, about in COMMANDS.items() if about.panel == panel]
                )
        records = (parameter.get_help_record(ctx) for parameter in self.get_params(ctx))
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record is not None])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What stands before the name of a command; its own options stand behind that."""
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        first = args[0].partition("=")[0] if args else ""
        if first.startswith("-") and first not in own:
            raise typer.BadParameter(
                f"{first} is no option of qpc itself; those of a command stand behind its name",
                ctx=ctx,
            )
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, found if name is None else whole_command(name), rest


def whole_command(name: str) -> Any:
    """The command of a name, with its options."""
    module = importlib.import_module(f"qpc.commands.{COMMANDS[name].module or name}")
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    example = module.EXAMPLE.replace("[", r"\[")  # is no markup
    alone.command(name, epilog=f"Example: {example}")(callback_of(module.command))
    return get_command(alone)


app = typer.Typer(
    name="qpc",
    cls=Commands,
    no_args_is_help=True,
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
        typer.echo(f"qpc {VERSION}")
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
