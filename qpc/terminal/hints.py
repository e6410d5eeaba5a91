"""Commands to type next, written so that they can be copied."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Protocol


class Written(Protocol):
    """A model as it is written on the command line."""

    @property
    def model(self) -> str: ...
    @property
    def input(self) -> list[str] | None: ...
    @property
    def weights(self) -> Path | None: ...


def again(written: Written, out: Path | None = None) -> str:
    """The same model in another command: from the folder where it was kept, if it was."""
    if out is not None:
        return quoted(out)
    parts = [written.model]
    for each in written.input or ():
        parts += ["--input", each]
    if written.weights is not None:
        parts += ["--weights", str(written.weights)]
    return shlex.join(parts)


def quoted(path: object) -> str:
    """A path or a word for a shell."""
    return shlex.quote(str(path))
