"""`qpc export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

EXAMPLE = "qpc export mobilenet/graph mobilenet.onnx --form onnx-qdq"


def command(
    reporter: Reporter,
    graph: Annotated[Path, typer.Argument(help="Folder of a saved graph.")],
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    form: Annotated[
        str,
        typer.Option(
            help="onnx-qdq, onnx-tensorrt, onnx-float, onnx-integer, tflite or pt2e.",
        ),
    ] = "onnx-qdq",
    batch: Annotated[int | None, typer.Option(min=1, help="The only batch size.")] = None,
    opset: Annotated[int | None, typer.Option(help="Opset of ONNX.")] = None,
    encodings: Annotated[
        str | None, typer.Option(help="Version of the grids beside float ONNX.")
    ] = None,
    fuse_residual_adds: Annotated[
        bool, typer.Option("--fuse-residual-adds", help="As TensorRT fuses sums best.")
    ] = False,
    ends: Annotated[
        str | None, typer.Option(help="Type of inputs and outputs in tflite: float32 or int8.")
    ] = None,
) -> Answer:
    """Write a saved graph in a form that other runtimes and tools read."""
    reporter.lost = "the file is as it was before"
    from qpc.given.folder import ModelFolder

    kept = ModelFolder.at(graph)
    path = graph if kept is None or kept.graph is None else kept.graph
    with reporter.phase("importing"):
        from qpc.exporting.command import run
    given = {"batch": batch, "opset": opset, "encodings": encodings, "ends": ends}
    with reporter.phase("exporting"):
        answer = run(path, out, form, given | {"fuse_residual_adds": fuse_residual_adds or None})
    return Answer(answer.data, (answer.text,), tuple(answer.notes))
