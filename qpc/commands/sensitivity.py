"""`qpc sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpc.given.options import DataOptions, ModelOptions
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from qpc.given.opened import Samples
    from qpc.precision.result import Sensitivity

EXAMPLE = "qpc sensitivity net.py:model --data photos --bits 8,6,4 --out sensitivity"
_SAMPLES = 64
"""Samples to calibrate with and to compare on, if nothing else is said."""


def command(
    reporter: Reporter,
    model: ModelOptions,
    data: DataOptions,
    bits: Annotated[str, typer.Option(help="Bits to try; empty for none.")] = "8,6,4",
    fewer_channels: Annotated[
        str, typer.Option(help="Shares of channels to remove; empty for none.")
    ] = "0.25",
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Measure the accuracy each time, too.")
    ] = False,
    most: Annotated[int, typer.Option(min=1, help="How many parts of the model to list.")] = 30,
    workers: Annotated[int, typer.Option(min=1, help="How many processes work.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for results; the same command goes on from there."
        ),
    ] = None,
) -> Answer:
    """Say what fewer bits and fewer channels of each layer do to the output."""
    tried = _numbers("--bits", bits, int), _numbers("--fewer-channels", fewer_channels, float)
    with reporter.phase("importing"):
        from qpc.errors import ConfigError
        from qpc.given.opened import open_model
        from qpc.precision.sensitivity import sensitivity
    if out is not None:
        reporter.lost = "the experiment that ran"
        reporter.kept = (
            f"what is known is kept in {str(out)!r}: the same command goes on from there"
        )
    opened = open_model(reporter, model, data)
    gm = opened.model.require_float("sensitivity")
    samples = opened.require_data("sensitivity")
    if accuracy and not samples.data.labelled:
        raise ConfigError("--accuracy needs labels", fix="one folder of images for each class")
    if accuracy and workers > 1:
        raise ConfigError("--accuracy is measured by one process", fix="leave --workers out")
    parts = list(reporter.each(samples.batches(most=data.samples or _SAMPLES), "reading data"))
    with reporter.phase("trying"):
        found = sensitivity(
            gm,
            [part.inputs for part in parts],
            bits=tried[0],
            fewer_channels=tried[1],
            evaluate=_Accuracy(samples) if accuracy else None,
            folder=None if out is None else out / "experiments",
            workers=workers,
            progress=reporter.told,
        )
    if out is not None:
        _write(found, out)
    return Answer(
        _data(found.to_json()),
        (found.table(most),),
        then=("qpc quantize MODEL --data DATA --out FOLDER --config bits.yaml",)
        if out is None
        else (f"open {out / 'sensitivity.svg'}",),
    )


def _write(found: Sensitivity, folder: Path) -> None:
    """The picture and the data, side by side."""
    from qpc.errors import ArtifactError

    found.plot(folder / "sensitivity.svg")
    try:
        (folder / "sensitivity.json").write_text(found.to_json() + "\n", encoding="utf-8")
    except OSError as e:
        raise ArtifactError(f"cannot write to {str(folder)!r}: {e.strerror or e}") from e


class _Accuracy:
    """The share of samples that a graph gets right."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __call__(self, gm: GraphModule) -> float:
        from qpc.explanation.evaluation import accuracy

        return accuracy(gm, self._samples.batches())


def _numbers(option: str, text: str, kind: Any) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(f"must be numbers, got {text!r}", param_hint=option) from None


def _data(text: str) -> dict[str, Any]:
    from json import loads

    found: dict[str, Any] = loads(text)
    return found
