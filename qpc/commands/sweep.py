"""`qpc sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

EXAMPLE = 'qpc sweep recipe.yaml --set "rounds.steps[0].allocation.amount=0.1,0.2" --out runs'


def command(
    reporter: Reporter,
    recipe: Annotated[Path, typer.Argument(help="A YAML file that names model, data and steps.")],
    set_: Annotated[
        list[str],
        typer.Option("--set", metavar="PATH=A,B", help="A setting, and the values to try."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for all runs; beside the recipe by default."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many processes work.")] = 1,
) -> Answer:
    """Run one recipe with many settings; each combination is a run of its own."""
    changes = dict(map(_change, set_))
    folder = out if out is not None else recipe.with_name(f"{recipe.stem}-sweep")
    reporter.lost = "the step that ran"
    reporter.kept = (
        f"what is done is kept in {str(folder)!r}, and the same command goes on from there"
    )
    with reporter.phase("importing"):
        from qpc.compression.source import read_recipe
        from qpc.compression.sweep import sweep
        from qpc.compression.tasks import model_of, task_of
    settings = read_recipe(recipe)
    task, model = task_of(settings, recipe.parent), model_of(settings, recipe.parent)
    with reporter.phase("sweeping"):
        found = sweep(
            model,
            settings,
            changes,
            evaluate=task.evaluate,
            train=task.train,
            batches=task.batches,
            loss=task.loss,
            out=folder,
            workers=workers,
            progress=reporter.told,
        )
    return Answer(_data(found.to_json()), (f"{found.table()}\nAll runs are in {str(folder)!r}.",))


def _change(text: str) -> tuple[str, list[object]]:
    """A setting's path and the values to try, each read as YAML."""
    import yaml

    path, equals, values = text.partition("=")
    try:
        found = yaml.safe_load(f"[{values}]") if equals and values else None
    except yaml.YAMLError:
        found = None
    if not path or not found:
        raise typer.BadParameter(f"must be PATH=A,B, got {text!r}", param_hint="--set")
    return path, found


def _data(text: str) -> dict[str, Any]:
    from json import loads

    found: dict[str, Any] = loads(text)
    return found
