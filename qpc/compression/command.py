"""What `qpc compress` does: a recipe that names its model and its data, from the command line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpc.compression.compress import compress
from qpc.compression.progress import Sink
from qpc.compression.result import CompressResult
from qpc.compression.source import read_recipe
from qpc.compression.tasks import model_of, moved, task_of


@dataclass(frozen=True)
class Answer:
    """What is printed; data: the same for JSON; reached: whether the target was, if any.

    first: whether this is the process that speaks for all.
    """

    text: str
    data: dict[str, Any]
    reached: bool | None
    first: bool = True


def compress_file(path: Path, out: Path, *, progress: bool | Sink = False) -> CompressResult:
    """Compress the model that a recipe names with the data that it names, and keep all in `out`.

    A run that was interrupted goes on. The recipe that is kept in `out` names the same files, from
    there. Raises as `qpc.compress` does, and what the user's functions raise.
    """
    recipe, folder = read_recipe(path), path.parent
    task, model = task_of(recipe, folder), model_of(recipe, folder)
    return compress(
        model,
        moved(recipe, folder.resolve(), out.resolve()),
        evaluate=task.evaluate,
        train=task.train,
        batches=task.batches,
        loss=task.loss,
        out=out,
        progress=progress,
    )


def run(path: Path, out: Path, sink: Sink) -> Answer:
    """The same for the command line, with progress to a sink."""
    result = compress_file(path, out, progress=sink)
    text = f"{result.table()}\n\n{result.summary()}\nEverything is in {str(out)!r}."
    first = os.environ.get("RANK", "0") == "0"  # as torchrun numbers processes
    return Answer(text, result.plain(), result.reached, first)
