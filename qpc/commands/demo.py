"""`qpc demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from qpc.terminal.answer import Answer
from qpc.terminal.plain import plain
from qpc.terminal.reporter import Reporter

EXAMPLE = "qpc demo --quick"
_KERNELS_KEPT = "kernels that were compiled are kept for the next time"


def command(
    reporter: Reporter,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use 200 test images instead of all.")
    ] = False,
) -> Answer:
    """Quantize and compile a ResNet-18, and compare its accuracy, size and speed."""
    reporter.lost, reporter.kept = "nothing is measured", _KERNELS_KEPT
    with reporter.phase("importing"):
        from qpc.demo import render, run_demo
    with reporter.phase("running the demonstration"):
        result = run_demo(quick=quick, say=reporter.detail)
    data = plain(result)
    assert isinstance(data, dict)
    return Answer(data, (lambda console: render(result, console),))
