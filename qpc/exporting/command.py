"""What `qpc export` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpc.exporting.export import export
from qpc.storage import load_graph


@dataclass(frozen=True)
class Answer:
    """What was written: for people, as JSON values, and what is to be known besides."""

    text: str
    data: dict[str, Any]
    notes: tuple[str, ...]


def run(graph: Path, out: Path, form: str, options: dict[str, Any]) -> Answer:
    """Write a saved graph to a file; raises what `qpc.load_graph` and `qpc.export` raise.

    options: those of `qpc.export`; None for what was not said.
    """
    made = export(load_graph(graph), out, form=form, **options)
    sizes = {str(file): file.stat().st_size for file in made.files}
    text = "\n".join(f"{file}: {size:,} bytes" for file, size in sizes.items())
    data = {"form": made.form, "files": sizes, "grids": len(made.grids), "notes": list(made.notes)}
    return Answer(text, data, made.notes)
