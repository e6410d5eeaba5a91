"""`qpc compress`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

EXAMPLE = "qpc compress recipe.yaml --out run"


def command(
    reporter: Reporter,
    recipe: Annotated[Path, typer.Argument(help="A YAML file that names model, data and steps.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for all that comes of it; beside the recipe by default."
        ),
    ] = None,
) -> Answer:
    """Prune, train and quantize a model by a recipe; a run that was interrupted goes on."""
    folder = out if out is not None else recipe.with_name(f"{recipe.stem}-compressed")
    reporter.lost = "the step that ran"
    reporter.kept = (
        f"what is done is kept in {str(folder)!r}, and the same command goes on from there"
    )
    if os.environ.get("RANK", "0") != "0":  # as torchrun numbers processes
        reporter.mute()
    with reporter.phase("importing"):
        from qpc.compression.command import run
    with reporter.phase("compressing"):
        answer = run(recipe, folder, reporter)
    if not answer.first:
        return Answer(None)
    missed = answer.reached is False
    return Answer(
        answer.data,
        (answer.text,),
        then=(f"qpc compile {shlex.quote(str(folder))}",),
        problem="the target was not reached" if missed else "",
        status=1 if missed else 0,
    )
