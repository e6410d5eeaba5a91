"""`qpc explain`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from qpc.given.options import DataOptions, FloatOption, ModelOptions, TimeOption
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from qpc.backends.tvm.runtime.model import CompiledModel

EXAMPLE = "qpc explain mobilenet --data photos --samples 8"
_SAMPLES = 8
"""Samples on which errors are measured, if nothing else is said: of large networks, own errors on
fewer."""


def command(
    reporter: Reporter,
    model: ModelOptions,
    data: DataOptions,
    reference: FloatOption = None,
    time: TimeOption = True,
    most: Annotated[
        int, typer.Option(min=1, help="How many layers to list: those that matter most.")
    ] = 40,
) -> Answer:
    """Say which layers make a model slow or wrong, why, and which changes would gain most."""
    with reporter.phase("importing"):
        from qpc.explanation.explain import explain
        from qpc.explanation.own_errors import MOST_MACS
        from qpc.given.opened import float_model, open_model
        from qpc.terminal.hints import again
    opened = open_model(reporter, model, data)
    gm, original = opened.model.require_graph("explain"), float_model(opened, model, reference)
    samples = opened.require_data("explain")
    batches = [part.inputs for part in samples.batches(most=data.samples or _SAMPLES)]
    compiled = opened.model.compiled
    notes: list[str] = []
    if time and compiled is None:
        compiled = compiled_of_graph(reporter, gm, notes)
    if compiled is not None and compiled.target.counter is None:
        notes.append(f"{compiled.target.name!r} has no counter of time: kernels are not timed")
        compiled = None
    most_macs = MOST_MACS if data.samples is None else math.inf
    with reporter.phase("measuring each layer"):
        found = explain(
            original,
            gm,
            batches,
            compiled=compiled if time else None,
            told=reporter.told,
            most_macs=most_macs,
        )
    then = f"qpc sensitivity {again(model) if reference is None else reference} --data {data.data}"
    return Answer(found.to_json(), (found.table(most),), tuple(notes), then=(then,))


def compiled_of_graph(
    reporter: Reporter, gm: GraphModule, notes: list[str]
) -> CompiledModel | None:
    """The graph as machine code; None if it cannot be, which a note tells."""
    from qpc.errors import BackendError

    try:
        from qpc.compiler import compile as compiled_of

        with reporter.phase("compiling"):
            return compiled_of(gm)
    except BackendError as e:
        notes.append(f"layers are not timed: {e.what}")
        return None
