"""`qpc diff`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from qpc.given.options import DataOptions
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

EXAMPLE = "qpc diff mobilenet mobilenet-4-bits --data photos"


def command(
    reporter: Reporter,
    a: Annotated[str, typer.Argument(help="A folder that QPC wrote.", metavar="A")],
    b: Annotated[str, typer.Argument(help="Another one.", metavar="B")],
    data: DataOptions,
) -> Answer:
    """Compare two saved models: layers, grids, sizes, outputs and latency."""
    with reporter.phase("importing"):
        from qpc.errors import ConfigError
        from qpc.explanation.difference import difference
        from qpc.given.opened import open_model
        from qpc.given.options import ModelOptions
        from qpc.given.running import runnable
        from qpc.terminal.hints import quoted
    first = open_model(reporter, ModelOptions(a), data)
    second = open_model(reporter, ModelOptions(b)).model
    model = first.model
    if (model.graph is None) != (second.graph is None) and not data.data:
        raise ConfigError(
            "a compiled model alone has no layers to compare", fix="--data, to compare outputs"
        )
    parts: Any = None
    if data.data is not None:
        samples = first.require_data("diff")
        parts = reporter.each(samples.batches(), "comparing", samples.number_of_batches())
    compiled = None
    if model.compiled is not None and second.compiled is not None:
        compiled = (model.compiled, second.compiled)
    with reporter.phase("comparing"):
        found = difference(
            model.graph,
            second.graph,
            parts=parts,
            runs=(runnable(model, None)[1], runnable(second, None)[1]),
            compiled=compiled,
        )
    then = f"qpc inspect {quoted(b)}"
    return Answer({"a": a, "b": b, **found.to_json()}, (str(found),), then=(then,))
