"""`qpc inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from qpc.given.options import ModelOptions
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

EXAMPLE = "qpc inspect torchvision.models:resnet50 --input 1x3x224x224 --channels"


def command(
    reporter: Reporter,
    model: ModelOptions,
    channels: Annotated[
        bool, typer.Option("--channels", help="List the channels that are pruned together.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what a compiled model runs, and in which memory.")
    ] = False,
) -> Answer:
    """List layers, shapes and costs, what will be in integers and what not, and why."""
    with reporter.phase("importing"):
        from qpc.explanation.inspection import inspect_graph
        from qpc.given.opened import open_model
        from qpc.terminal.hints import again
    opened = open_model(reporter, model).model
    data: dict[str, object] = {"model": model.model}
    shown: list[str] = []
    then: tuple[str, ...] = ()
    if opened.graph is not None:
        with reporter.phase("looking at the graph"):
            found = inspect_graph(opened.graph)
        data |= {"graph": found.to_json()}
        shown.append(str(found))
        if channels:
            shown += [
                f"channels {g.index}: {g.prunable} of {g.channels} can go, {' + '.join(g.layers)}"
                + (f"; {g.why_whole}" if g.why_whole else "")
                for g in found.channels
            ]
        if found.stage == "float":
            then = (f"qpc quantize {again(model)} --data PHOTOS --out quantized",)
        elif opened.compiled is None:
            then = (f"qpc compile {again(model)}",)
    if opened.compiled is not None:
        compiled = opened.compiled
        about = {
            "target": compiled.target.name,
            "threads": compiled.threads,
            "batch_sizes": list(compiled.batch_sizes),
            "integer_kernels": len(compiled.report.kernels),
            "other_operators": len(compiled.report.others),
            "outputs": [str(output) for output in compiled.report.outputs],
        }
        data |= {"compiled": about}
        shown.append(
            f"compiled for {about['target']}, {compiled.threads} thread(s), batches of "
            f"{', '.join(map(str, compiled.batch_sizes))}: {about['integer_kernels']} integer "
            f"kernels, {about['other_operators']} other operators"
        )
        shown += [f"output {output}" for output in compiled.report.outputs]
        if plan:
            shown.append(str(compiled.plan))
        then = (f"qpc bench {again(model)}",)
    return Answer(data, ("\n".join(shown),), then=then)
