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
    "trace": About(
        _SEE, "Say whether a model can be captured as a graph, and if not, where and why."
    ),
    "inspect": About(
        _SEE, "List layers, shapes and costs, what will be in integers and what not, and why."
    ),
    "diff": About(_SEE, "Compare two saved models: layers, grids, sizes, outputs and latency."),
    "quantize": About(
        _COMPRESS,
        "Quantize a model to integers, calibrated on data, and keep graph, settings and result.",
    ),
    "prune": About(
        _COMPRESS, "Remove the channels that are worth least, and keep the smaller graph."
    ),
    "compress": About(
        _COMPRESS,
        "Prune, train and quantize a model by a recipe; a run that was interrupted goes on.",
    ),
    "sweep": About(
        _COMPRESS, "Run one recipe with many settings; each combination is a run of its own."
    ),
    "compile": About(
        _DEPLOY,
        "Compile a graph to machine code, for here or as a library for C programs, and verify it.",
    ),
    "verify": About(_DEPLOY, "Replay what a deployed model must give, and demand every byte."),
    "targets": About(
        _DEPLOY, "List the CPUs and boards that there is code for, with what each needs."
    ),
    "export": About(_DEPLOY, "Write a model in a form that other runtimes and tools read."),
    "run": About(_DEPLOY, "Run a model on data, show its first answers, and keep all of them."),
    "evaluate": About(
        _MEASURE,
        "Measure accuracy of a model and of the float model that it was made from, side by side.",
    ),
    "explain": About(
        _MEASURE,
        "Say which layers make a model slow or wrong, why, and which changes would gain most.",
    ),
    "report": About(
        _MEASURE,
        "Write one HTML file about a model: what it gained and lost, and where; to show around.",
    ),
    "sensitivity": About(
        _MEASURE, "Say what fewer bits and fewer channels of each layer do to the output."
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
