"""What commands keep of a model in a folder.

    graph/            the graph that the command made, as qpc.save_graph writes it
    float/            the graph in float that it was made from; what it is compared with
    compiled/         the compiled model, once `qpc compile` has made it
    settings.yaml     the command and all its settings: `qpc quantize --settings settings.yaml`
    result.json       what the command found out

A folder of `qpc compress` has `best/` in place of `graph/`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qpc.errors import ArtifactError
from qpc.files import replace_file

GRAPH, BEST, FLOAT, COMPILED, VECTORS = "graph", "best", "float", "compiled", "vectors.safetensors"
SETTINGS, RESULT = "settings.yaml", "result.json"
_OWN = frozenset({GRAPH, FLOAT, COMPILED, VECTORS, SETTINGS, RESULT})
_DOCUMENT = "graph.json"


@dataclass(frozen=True)
class ModelFolder:
    """A folder in which a command keeps a model, and all that belongs to it."""

    path: Path

    @staticmethod
    def at(path: Path) -> ModelFolder | None:
        """The folder of a model at a path; None if there is none."""
        found = ModelFolder(path)
        return found if found.graph is not None else None

    @staticmethod
    def begin(path: Path) -> ModelFolder:
        """A folder to write to, before anything is computed: new, empty, or of the same kind.

        A new one is made for a moment, to see whether it can be: what fails later leaves nothing.
        Raises ArtifactError if it holds something else, or nobody may write there.
        """
        new = [p for p in (path, *path.parents) if not os.path.lexists(p)]
        try:
            path.mkdir(parents=True, exist_ok=True)
            strangers = sorted(n for n in os.listdir(path) if n not in _OWN and n[0] != ".")
            writable = os.access(path, os.W_OK | os.X_OK)
            for made in new:
                made.rmdir()
        except OSError as e:
            raise ArtifactError(
                f"cannot write to {str(path)!r}: {e.strerror or e}", fix="choose another --out"
            ) from e
        if strangers:
            raise ArtifactError(
                f"{str(path)!r} holds something else: {strangers[0]!r}", fix="choose another --out"
            )
        if not writable:
            raise ArtifactError(
                f"cannot write to {str(path)!r}: Permission denied", fix="choose another --out"
            )
        return ModelFolder(path)

    @property
    def graph(self) -> Path | None:
        """Where the graph is."""
        return self._first(GRAPH, BEST)

    @property
    def original(self) -> Path | None:
        """Where the float graph is that it was made from, if it was kept."""
        return self._first(FLOAT)

    @property
    def compiled(self) -> Path | None:
        """Where the compiled model is, if there is one."""
        found = self.path / COMPILED
        return found if (found / "manifest.json").is_file() else None

    def write_texts(self, settings: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Write the settings, and what the command found out. Raises ArtifactError if not."""
        text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
        texts = {SETTINGS: text, RESULT: json.dumps(result, indent=2, allow_nan=False) + "\n"}
        for name, content in texts.items():
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                replace_file(self.path / name, content.encode())
            except OSError as e:
                raise ArtifactError(
                    f"cannot write {str(self.path / name)!r}: {e.strerror or e}",
                    fix="choose another --out, on a disk with space",
                ) from e

    def _first(self, *names: str) -> Path | None:
        found = [self.path / n for n in names if (self.path / n / _DOCUMENT).is_file()]
        return found[0] if found else None
