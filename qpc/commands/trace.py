"""`qpc trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qpc.given.options import ModelOptions
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

EXAMPLE = "qpc trace torchvision.models:mobilenet_v2 --input 1x3x224x224"


def command(
    reporter: Reporter,
    model: ModelOptions,
    graph: Annotated[bool, typer.Option("--graph", help="Print the graph, too.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Keep the graph in this folder.")
    ] = None,
) -> Answer:
    """Say whether a model can be captured as a graph, and if not, where and why."""
    with reporter.phase("importing"):
        from qpc.capture.trace import batch_is_dynamic
        from qpc.explanation.inspection import inspect_graph
        from qpc.given.opened import open_model
        from qpc.printer import format_graph
        from qpc.storage import save_graph
        from qpc.terminal.hints import again
    gm = open_model(reporter, model).model.require_graph("trace")
    if out is not None:
        save_graph(gm, out)
    found = inspect_graph(gm)
    any_batch = batch_is_dynamic(gm)
    calls = ", ".join(f"{count} {name}" for name, count in found.operators.items())
    shapes = ", ".join(f"{name} {kind}" for name, kind in found.inputs.items())
    text = [
        f"{model.model}: captured, {sum(found.operators.values())} operators, for "
        f"{'any batch size' if any_batch else 'one batch size only'}",
        f"inputs: {shapes}",
        f"outputs: {', '.join(found.outputs)}",
        f"operators: {calls}",
        f"{found.parameters:,} parameters, {found.macs:,} MACs",
    ]
    if graph:
        text.append(format_graph(gm).rstrip())
    data = {
        "model": model.model,
        "any_batch_size": any_batch,
        "inputs": dict(found.inputs),
        "outputs": list(found.outputs),
        "operators": dict(found.operators),
        "parameters": found.parameters,
        "macs": found.macs,
        "graph": format_graph(gm) if graph else None,
    }
    then = f"qpc quantize {again(model, out)} --data PHOTOS --out {_name(model)}-int8"
    return Answer(data, ("\n".join(text),), then=(f"qpc inspect {again(model, out)}", then))


def _name(model: ModelOptions) -> str:
    return model.model.rpartition(":")[2].rstrip("/").rpartition("/")[2] or "model"
