"""`qpc evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from qpc.given.options import DataOptions, How, ModelOptions
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

EXAMPLE = "qpc evaluate mobilenet --data photos --batch 8"


def command(
    reporter: Reporter,
    model: ModelOptions,
    data: DataOptions,
    against: Annotated[
        str | None,
        typer.Option(
            help="What to compare with, written like MODEL; the float model it was made from.",
            metavar="MODEL",
        ),
    ] = None,
    how: Annotated[How | None, typer.Option(help="Run machine code, or the graph.")] = None,
    at_least: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Fail, with exit code 3, if the accuracy, or else the agreement, is less.",
        ),
    ] = None,
) -> Answer:
    """Measure accuracy of a model and of the float model that it was made from, side by side."""
    with reporter.phase("importing"):
        from qpc.explanation.evaluation import evaluate, table
        from qpc.given.model import model_of
        from qpc.given.opened import open_model
        from qpc.given.running import runnable
        from qpc.terminal.hints import again, quoted
        from qpc.terminal.plain import plain
    opened = open_model(reporter, model, data)
    samples = opened.require_data("evaluate")
    form, found = runnable(opened.model, how)
    models = {form: found}
    if against is not None:
        inputs = model.input or () if ":" in against else ()
        other = model_of(against, inputs, model.weights if ":" in against else None)
        models = {against: runnable(other, None)[1], **models}
    elif opened.model.original is not None:
        models = {"float": opened.model.original, **models}
    total = samples.number_of_batches()
    scores = evaluate(models, reporter.each(samples.batches(), "evaluating", total))
    result = {"data": data.data, "models": plain(scores)}
    notes = [] if len(models) > 1 else ["there is no float model to compare with: --against MODEL"]
    if not samples.data.labelled:
        notes.append("the data has no labels, so there is no accuracy")
    last = scores[-1]
    reached = last.top1 if last.top1 is not None else last.agreement
    missed = at_least is not None and (reached is None or reached < at_least)
    return Answer(
        result,
        (f"{last.samples:,} samples", table(scores)),
        tuple(notes),
        then=(f"qpc explain {again(model)} --data {quoted(data.data)}",),
        problem=f"{reached or 0:.2%} is less than {at_least or 0:.2%}" if missed else "",
        status=3 if missed else 0,
    )
