"""`qpc report`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpc.given.options import DataOptions, FloatOption, ModelOptions, TimeOption
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from qpc.backends.tvm.runtime.model import CompiledModel
    from qpc.explanation.evaluation import Score
    from qpc.given.opened import Opened, Samples
    from qpc.reporting.data import Report

EXAMPLE = "qpc report mobilenet --data photos --out mobilenet.html"
_SAMPLES = 8
"""Samples on which errors are measured, if nothing else is said: of large networks, own errors on
fewer."""


def command(
    reporter: Reporter,
    model: ModelOptions,
    data: DataOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The page, a file .html; called like the model by default."
        ),
    ] = None,
    reference: FloatOption = None,
    time: TimeOption = True,
    accuracy: Annotated[
        bool,
        typer.Option("--accuracy/--no-accuracy", help="Measure accuracy, if the data has labels."),
    ] = True,
) -> Answer:
    """Write one HTML file about a model: what it gained and lost, and where; to show around."""
    with reporter.phase("importing"):
        from qpc.explanation.own_errors import MOST_MACS
        from qpc.given.opened import float_model, open_model
        from qpc.reporting.collect import report_of
        from qpc.reporting.write import checked_goal
        from qpc.terminal.hints import again, quoted
    name = Path(model.model).resolve().name if ":" not in model.model else model.model
    goal = checked_goal(out or Path(f"{name.rpartition(':')[2]}.html"))
    opened = open_model(reporter, model, data)
    gm, original = opened.model.require_graph("a report"), float_model(opened, model, reference)
    samples = opened.require_data("a report")
    notes: list[str] = []
    compiled = _timed(reporter, opened, gm, notes) if time else None
    scores = _scores(reporter, opened, samples, original, notes) if accuracy else ()
    then = f"qpc explain {again(model)} --data {quoted(data.data)}"
    settings, run = _kept(opened.model.folder)
    most_macs = MOST_MACS if data.samples is None else math.inf
    with reporter.phase("measuring each layer"):
        report = report_of(
            original,
            gm,
            [part.inputs for part in samples.batches(most=data.samples or _SAMPLES)],
            compiled=compiled,
            scores=scores,
            run=run,
            settings=settings,
            title=name,
            notes=notes,
            told=reporter.told,
            most_macs=most_macs,
        )
    return _written(reporter, report, goal, notes, then)


def _timed(
    reporter: Reporter, opened: Opened, gm: GraphModule, notes: list[str]
) -> CompiledModel | None:
    """The compiled model, made if there is none; None, which a note tells, without times."""
    from qpc.commands.explain import compiled_of_graph

    compiled = opened.model.compiled or compiled_of_graph(reporter, gm, notes)
    if compiled is not None and compiled.target.counter is None:
        notes.append(f"{compiled.target.name!r} has no counter of time: kernels are not timed")
        return None
    return compiled


def _scores(
    reporter: Reporter, opened: Opened, samples: Samples, original: Any, notes: list[str]
) -> tuple[Score, ...]:
    """Accuracy of the float model and of this one; none, which a note tells, without labels."""
    from qpc.explanation.evaluation import evaluate
    from qpc.given.running import runnable

    if not samples.data.labelled:
        notes.append("the data has no labels, so there is no accuracy")
        return ()
    form, found = runnable(opened.model, None)
    total = samples.number_of_batches()
    parts = reporter.each(samples.batches(), "measuring accuracy", total)
    return evaluate({"float": original, form: found}, parts)


def _kept(folder: Path | None) -> tuple[str, dict[str, Any] | None]:
    """The settings that a folder keeps, and its compression run, if it is one's."""
    import json

    from qpc.given.folder import RESULT, SETTINGS

    if folder is None:
        return "", None
    recipe = next((folder / n for n in (SETTINGS, "recipe.yaml") if (folder / n).is_file()), None)
    settings = "" if recipe is None else recipe.read_text("utf-8", errors="replace")
    try:
        data = json.loads((folder / RESULT).read_bytes())
    except (OSError, ValueError):
        return settings, None
    whole = isinstance(data, dict) and {"metric", "limit", "best", "models"} <= data.keys()
    return settings, data if whole else None


def _written(reporter: Reporter, report: Report, goal: Path, notes: list[str], then: str) -> Answer:
    """The page and its data on disk, and what to say of them."""
    from qpc.reporting.write import save_report

    with reporter.phase("writing"):
        save_report(report, goal)
    size = goal.stat().st_size
    text = f"a report on {len(report.layers)} operators, {size:,} bytes, in {str(goal)!r}"
    result = {"path": str(goal), "data": str(goal.with_suffix(".json")), "bytes": size}
    return Answer(result, (text,), tuple(notes), then=(then,))
