"""`qpc run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpc.given.options import DataOptions, How, ModelOptions
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLE = "qpc run mobilenet --data photos --out logits.npz"
_SHOWN, _TOP = 10, 5
"""Samples of which the first classes are shown, and how many of these."""


def command(
    reporter: Reporter,
    model: ModelOptions,
    data: DataOptions,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write all outputs to this .npz or .safetensors file."),
    ] = None,
    how: Annotated[How | None, typer.Option(help="Run machine code, or the graph.")] = None,
) -> Answer:
    """Run a model on data, show its first answers, and keep all of them."""
    if out is not None and out.suffix not in (".npz", ".safetensors"):
        raise typer.BadParameter(
            f"must end in .npz or .safetensors, got {out.name!r}", param_hint="--out"
        )
    with reporter.phase("importing"):
        import torch

        from qpc.errors import ConfigError
        from qpc.explanation.evaluation import callable_of
        from qpc.given.opened import open_model
        from qpc.given.running import runnable
        from qpc.terminal.hints import again, quoted
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"there is no folder {str(out.parent)!r} for --out")
    opened = open_model(reporter, model, data)
    samples = opened.require_data("run")
    form, found = runnable(opened.model, how)
    call = callable_of(found)
    pieces = [
        call(*part.inputs)
        for part in reporter.each(samples.batches(), "running", samples.number_of_batches())
    ]
    if not pieces:
        raise ConfigError("there are no samples", fix="check what the data is read from")
    outputs = [torch.cat(group) for group in zip(*pieces, strict=True)]
    if out is not None:
        _write(out, outputs)
    shapes = [list(value.shape) for value in outputs]
    kept = f", kept in {str(out)!r}" if out is not None else ""
    text = [f"{len(outputs[0]):,} samples as {form}: outputs of shapes {shapes}{kept}"]
    answers = _answers(outputs[0])
    text += [f"  {number}: {row}" for number, row in enumerate(answers)]
    result = {
        "form": form,
        "samples": len(outputs[0]),
        "shapes": shapes,
        "first_classes": answers,
        "out": None if out is None else str(out),
    }
    then = f"qpc evaluate {again(model)} --data {quoted(data.data)}"
    return Answer(result, ("\n".join(text),), then=(then,))


def _answers(scores: Tensor) -> list[list[int]]:
    """The best classes of the first samples; none if the output is no scores of classes."""
    if scores.dim() != 2:
        return []
    found: list[list[int]] = scores[:_SHOWN].topk(min(_TOP, scores.shape[1]), 1).indices.tolist()
    return found


def _write(path: Path, outputs: list[Any]) -> None:
    import io

    import numpy as np
    from safetensors.torch import save

    from qpc.errors import ArtifactError
    from qpc.files import replace_file

    named = {f"output{number}": value.contiguous() for number, value in enumerate(outputs)}
    if path.suffix == ".npz":
        file = io.BytesIO()
        np.savez(file, **{name: value.numpy() for name, value in named.items()})
        content = file.getvalue()
    else:
        content = save(named)
    try:
        replace_file(path, content)
    except OSError as e:
        raise ArtifactError(
            f"cannot write {str(path)!r}: {e.strerror or e}", fix="choose another --out"
        ) from e
