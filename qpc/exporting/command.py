"""What `qpc export` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.fx import GraphModule

from qpc.errors import ConfigError
from qpc.exporting.export import FORMS, export, require_options


@dataclass(frozen=True)
class Answer:
    """What was written: for people, as JSON values, and what is to be known besides."""

    text: str
    data: dict[str, Any]
    notes: tuple[str, ...]


def check(out: Path, form: str, options: Mapping[str, Any], *, data: bool) -> None:
    """Raise ConfigError for a form that there is not, what it does not take, and no place to write.

    options: as `run` takes them. data: whether there is some.
    """
    if out.is_dir() or not out.parent.is_dir():
        what = f"{str(out)!r} is a folder" if out.is_dir() else f"there is no {str(out.parent)!r}"
        raise ConfigError(f"cannot write there: {what}", fix="name a file in a folder that exists")
    require_options(form, options)
    if data and "batches" not in FORMS[form].options:
        those = ", ".join(name for name, about in FORMS.items() if "batches" in about.options)
        raise ConfigError(
            f"the form {form!r} makes no use of data",
            fix=f"leave --data out; forms that round values for data are {those}",
        )


def run(gm: GraphModule, out: Path, form: str, options: Mapping[str, Any]) -> Answer:
    """Write a graph to a file; raises what `qpc.export` raises.

    options: those of `qpc.export`; None for what was not said.
    """
    made = export(gm, out, form=form, **options)
    sizes = {str(file): file.stat().st_size for file in made.files}
    text = "\n".join(f"{file}: {size:,} bytes" for file, size in sizes.items())
    data = {"form": made.form, "files": sizes, "grids": len(made.grids), "notes": list(made.notes)}
    return Answer(text, data, made.notes)
