"""The commands of `qpc`, each in a module of its own that is imported when it is called.

A module holds `EXAMPLE`, a line to copy, and `command`, which takes a `Reporter` (`qpc.terminal`)
and the command's arguments, and returns an `Answer`. The first line of its docstring is the one in
the table below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_SEE, _COMPRESS, _DEPLOY, _MEASURE, _AROUND = (
    "Look at a model",
    "Make it smaller",
    "Deploy it",
    "Measure it",
    "Around it",
)


@dataclass(frozen=True)
class About:
    """A command in the list of all: one line about it, and the heading that it stands under."""

    panel: str
    line: str
    module: str = ""


COMMANDS: Mapping[str, About] = {
    "compress": About(
        _COMPRESS,
        "Prune, train and quantize a model by a recipe; a run that was interrupted goes on.",
    ),
    "bench": About(
        _MEASURE,
        "Compare a model's speed with other runtimes, in turns, on the same threads.",
    ),
    "demo": About(
        _AROUND, "Quantize and compile a ResNet-18, and compare its accuracy, size and speed."
    ),
    "doctor": About(_AROUND, "Say what this machine has, what is missing, and how to mend it."),
    "version": About(_AROUND, "Print QPC's version."),
}
"""All commands by name, in the order of the help."""
