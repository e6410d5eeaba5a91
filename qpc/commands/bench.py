"""`qpc bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

EXAMPLE = "qpc bench mobilenet --peer onnxruntime --threads 2"
_KERNELS_KEPT = "kernels that were compiled are kept for the next time"


def command(
    reporter: Reporter,
    model: Annotated[Path, typer.Argument(help="Folder of a quantized graph or compiled model.")],
    graph: Annotated[
        Path | None, typer.Option(help="The graph that a compiled model was made from.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="Another runtime; all installed ones by default.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of all.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, in each of which all run.")] = 50,
) -> Answer:
    """Compare a model's speed with other runtimes, in turns, on the same threads."""
    reporter.lost, reporter.kept = "nothing is measured yet", _KERNELS_KEPT
    from qpc.bench.request import Request

    peers = list(dict.fromkeys(peer or ())) or None
    request = Request(model, graph, threads, batch, rounds, peers)
    request.check()
    from qpc.backends.tvm.compat import require_tvm

    with reporter.phase("importing"):
        require_tvm()  # first, as this import must not be interrupted
        from qpc.bench.command import run
    with reporter.phase("measuring"):
        answer = run(request)
    return Answer(answer.data, (answer.text,), answer.notes)
