"""`qpc export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from qpc.given.options import DataOptions, ModelOptions
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

EXAMPLE = "qpc export mobilenet mobilenet.onnx --form onnx-qdq --data photos --samples 64"
_SAMPLES = 128
"""Samples to see how far values go on, if nothing else is said."""


@dataclass(frozen=True)
class DataForExport(DataOptions):
    """Data, which comes as the file will take it."""

    batch: Annotated[
        int | None,
        typer.Option(min=1, help="The only batch size of the file, in which data comes too."),
    ] = None


def command(
    reporter: Reporter,
    model: ModelOptions,
    out: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
    data: DataForExport,
    form: Annotated[
        str,
        typer.Option(
            help="onnx-qdq, onnx-tensorrt, onnx-float, onnx-integer, tflite or pt2e.",
        ),
    ] = "onnx-qdq",
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
    """Write a model in a form that other runtimes and tools read.

    In onnx-qdq, onnx-tensorrt and tflite, layers that join additions are rounded before these, on
    grids that fit their values if there is --data to see these on.
    """
    reporter.lost = "the file is as it was before"
    with reporter.phase("importing"):
        from qpc.exporting.command import check, run
        from qpc.given.opened import open_model
        from qpc.given.watched import Calibration
    given: dict[str, Any] = {"batch": data.batch, "opset": opset, "encodings": encodings}
    given |= {"fuse_residual_adds": fuse_residual_adds or None, "ends": ends}
    check(out, form, given, data=data.data is not None)
    opened = open_model(reporter, model, data)
    gm = opened.model.require_graph("export")
    if opened.data is not None:
        samples, most = opened.require_data("export"), data.samples or _SAMPLES
        given["batches"] = Calibration(samples, reporter, "seeing how far values go", most)
    with reporter.phase("exporting"):
        answer = run(gm, out, form, given)
    return Answer(answer.data, (answer.text,), answer.notes)
