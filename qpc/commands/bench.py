"""`qpc bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qpc.errors import ConfigError
from qpc.given.options import DataOptions, ModelOptions
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

if TYPE_CHECKING:
    from qpc.bench.request import Request
    from qpc.given.opened import Samples

EXAMPLE = "qpc bench mobilenet --peer onnxruntime --threads 2 --data photos"
_KERNELS_KEPT = "kernels that were compiled are kept for the next time"


def command(
    reporter: Reporter,
    model: Annotated[
        Path, typer.Argument(help="Folder of a quantized graph, compiled model or library.")
    ],
    data: DataOptions,
    graph: Annotated[
        Path | None, typer.Option(help="The graph that a compiled model was made from.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="Another runtime; all installed ones by default.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a call, of all.")] = None,
    instances: Annotated[
        int, typer.Option(min=1, help="Copies side by side, where samples in a second count.")
    ] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, in each of which all run.")] = 50,
    on: Annotated[
        str | None, typer.Option(help="Where to time an exported library: ssh://user@host.")
    ] = None,
) -> Answer:
    """Compare a model's speed with other runtimes, in turns, on the same threads.

    Exported libraries are timed by themselves, here or on a board that has a shell.
    """
    reporter.lost, reporter.kept = "nothing is measured yet", _KERNELS_KEPT
    if on is not None or (model / "library.json").is_file():
        if peer or threads or instances > 1 or graph or data.data or data.batch:
            raise ConfigError(
                "an exported library is timed by itself, as it was exported",
                fix="no other options than --rounds and --on",
            )
        return _of_library(reporter, model, on, rounds)
    from qpc.bench.request import Request

    peers = list(dict.fromkeys(peer or ())) or None
    batch = data.batch or 1
    default = threads is None and batch == 1
    measured, graph = _parts_of(model, graph, default=default)
    name = model.resolve().name
    request = Request(measured, graph, threads, batch, rounds, peers, instances, name)
    request.check()
    from qpc.backends.tvm.compat import require_tvm
    from qpc.terminal.hints import quoted

    with reporter.phase("importing"):
        require_tvm()  # first, as this import must not be interrupted
        from qpc.bench.command import run
    samples = None if data.data is None else _samples(reporter, request, data)
    parts = () if samples is None else samples.batches()
    with reporter.phase("measuring"):
        answer = run(request, parts, reporter.detail)
    notes = answer.notes
    if samples is not None and not samples.data.labelled:
        notes += ("the data has no labels, so there is no accuracy",)
    then = f"qpc explain {quoted(model)} --data {quoted(data.data or 'PHOTOS')}"
    return Answer(answer.data, (answer.text.rstrip(),), notes, then=(then,))


def _of_library(reporter: Reporter, path: Path, on: str | None, calls: int) -> Answer:
    with reporter.phase("importing"):
        from qpc.backends.deploy.verify import Where, time_library
    with reporter.phase("timing"):
        timed = time_library(path, Where(on), calls=calls)
    return Answer(timed.to_json(), (str(timed),))


def _parts_of(model: Path, graph: Path | None, *, default: bool) -> tuple[Path, Path | None]:
    """The compiled model and the graph that a command has kept, or the graph alone.

    default: whether nothing is asked for that the compiled model may not have been made for.
    """
    from qpc.given.folder import ModelFolder

    kept = ModelFolder.at(model)
    if kept is None or graph is not None:
        return model, graph
    assert kept.graph is not None
    if kept.compiled is not None and default:
        return kept.compiled, kept.graph
    return kept.graph, None


def _samples(reporter: Reporter, request: Request, data: DataOptions) -> Samples:
    from qpc.given.opened import open_model

    return open_model(reporter, ModelOptions(str(request.model)), data).require_data("bench")
