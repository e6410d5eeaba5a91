"""Runs in TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from qpc.callbacks.protocol import Callback
from qpc.errors import MissingDependencyError
from qpc.installing import install_line


class TensorBoard(Callback):
    """Writes event files into a folder, which `tensorboard --logdir FOLDER` shows.

    Numbers become curves, settings and the end of the run texts.

    Raises MissingDependencyError without the package `tensorboard`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as e:
            raise MissingDependencyError(
                f"TensorBoard cannot be imported: {e}", fix=install_line("tensorboard")
            ) from e
        self._folder = os.fspath(folder)
        self._writer_class: Any = SummaryWriter

    def start(self, run: str, settings: Mapping[str, object]) -> None:
        self._writer = self._writer_class(self._folder)
        text = json.dumps(settings, indent=2, default=str)
        self._text(f"{run}/settings", f"```json\n{text}\n```")

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, problem: str | None) -> None:
        self._text("end", problem or "done")
        self._writer.close()

    def _text(self, name: str, text: str) -> None:
        self._writer.add_text(name, text)
