"""Measure other tiles than those that the cost model chooses, and take those that are faster.

The tiles of all layers are varied at once: in the first variant every layer has the tile that the
cost model puts second, then third, and so on. So every tile is measured where it stands, in the
whole model, in turns with the model that the cost model chooses. This happens in another process,
which may crash or be killed; what it has measured by then is kept beside the kernels, under the
same rules, and not measured again. The result is taken only if the whole model is faster with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.fx import GraphModule

from qpc.backends.options import Cache
from qpc.backends.tvm.codegen.cache import (
    folder_of,
    is_private,
    make_private,
    say_not_kept,
    say_why_not,
)
from qpc.backends.tvm.compat import TVM_VERSION
from qpc.backends.tvm.kernels.conv.tiling import ALL_KEPT, Tile, Tuner
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.children import Ended, run_module
from qpc.errors import ArtifactError, BackendError, UnsupportedTargetError
from qpc.files import read_regular
from qpc.storage import save_graph
from qpc.targets import Target
from qpc.targets.form import decode_target, encode_target
from qpc.version import VERSION

_MOST_BYTES = 64 * 2**20  # of a file of results, each of which has some hundred
VARIANTS = 5  # tiles that are measured for each layer, besides the cost model's
CLEARLY = 0.97  # of the time of the cost model's tile, for another one to be taken
_MODEL_CLEARLY = 0.99  # of the time of the whole model
_MODEL_ROUNDS, _MODEL_CALLS = 15, 3


@dataclass(frozen=True)
class Measured:
    """One kernel with another tile. `ratio` is its time over the time with the cost model's."""

    kernel: str
    tile: Tile
    ratio: float


def better_tiles(
    gm: GraphModule,
    target: Target,
    *,
    batch: int,
    threads: int,
    seconds: float,
    cache: Cache,
) -> dict[str, Tile]:
    """The tiles that are clearly faster, by the names of the kernels that the cost model chooses.

    Measures for so many seconds at the most. Warns if the measuring process fails, or its time is
    over before it has measured anything. Raises UnsupportedTargetError if code for `target` cannot
    run here, BackendError if there is no place for temporary files.
    """
    if reason := target.runs_here():
        raise UnsupportedTargetError(
            f"cannot tune for {target.name!r}: {reason}", fix="tune on such a machine"
        )
    file = _results_file(target, cache)
    known = [] if file is None else read_results(file)
    with _temporary_folder() as folder:
        graph, results = str(folder / "graph"), str(folder / "new")
        request = Request(graph, target, batch, threads, seconds, cache, known, results)
        save_graph(gm, graph)
        (folder / "request").write_text(request.to_json(), encoding="utf-8")
        try:
            arguments = "qpc.backends.tvm.measure.tune_worker", str(folder / "request")
            ended = run_module(*arguments, timeout=seconds, temporary=folder)
        finally:  # what it has measured counts, however it ended
            new = read_results(Path(request.results))
            if file is not None and new:
                _keep(file, new)
    _warn_of_failure(ended, seconds, bool(new))
    return chosen([*known, *new])


def _warn_of_failure(ended: Ended, seconds: float, measured: bool) -> None:
    if ended.status is None and not measured:
        text = f"tuning measured nothing within {seconds:g} s: allow more with tune=SECONDS"
    elif ended.status:
        text = f"tuning ended early, the process that measures failed: {ended.last_words}"
    else:
        return
    warnings.warn(text, stacklevel=2)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="qpc-tune-", ignore_cleanup_errors=True)
    except OSError as e:
        raise BackendError(
            f"cannot tune without a folder for temporary files: {e.strerror or e}",
            fix="set TMPDIR to a folder with space that can be written to",
        ) from e
    with folder as path:
        yield Path(path)


def chosen(results: Sequence[Measured]) -> dict[str, Tile]:
    """The fastest tile of each kernel, where that is clearly faster than the cost model's."""
    best: dict[str, Measured] = {}
    for result in results:
        if result.ratio < CLEARLY and (
            result.kernel not in best or result.ratio < best[result.kernel].ratio
        ):
            best[result.kernel] = result
    return {kernel: result.tile for kernel, result in best.items()}


def is_faster(tuned: CompiledModel, plain: CompiledModel, threads: int) -> bool:
    """Whether `tuned` is clearly the faster one, measured in turns."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    inputs = plain._example_inputs()

    def seconds(model: CompiledModel) -> float:
        model(*inputs)  # so that both find the caches as they leave them
        times = []
        for _ in range(_MODEL_CALLS):
            start = clock()
            model(*inputs)
            times.append(clock() - start)
        return min(times)

    ratios = []
    for number in range(_MODEL_ROUNDS):
        first, second = (tuned, plain) if number % 2 else (plain, tuned)
        times = {id(first): seconds(first), id(second): seconds(second)}
        ratios.append(times[id(tuned)] / times[id(plain)])
    return statistics.median(ratios) < _MODEL_CLEARLY


# --- what the measuring process is told -----------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What to measure: `known` is not measured again, results are added to the file `results`."""

    graph: str
    target: Target
    batch: int
    threads: int
    seconds: float
    cache: Cache
    known: Sequence[Measured]
    results: str

    def to_json(self) -> str:
        """The request as text."""
        cache = self.cache if isinstance(self.cache, bool) else os.path.abspath(self.cache)
        known = [asdict(each) for each in self.known]
        changed = {"target": encode_target(self.target), "cache": cache, "known": known}
        return json.dumps(vars(self) | changed)

    @classmethod
    def from_json(cls, text: str) -> Request:
        """The request that `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        known = [_measured(each) for each in data["known"]]
        return cls(**data | {"target": decode_target(data["target"]), "known": known})


# --- results on disk ------------------------------------------------------------------------------


def append_results(file: Path, results: Sequence[Measured]) -> None:
    """Add lines to a file that other processes may be adding to; raises OSError.

    All are written at once, and behind a new line, in case somebody died in the middle of one.
    """
    lines = "".join("\n" + json.dumps(asdict(result)) for result in results) + "\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    stream = os.open(file, flags, 0o600)
    try:
        os.write(stream, lines.encode())
    finally:
        os.close(stream)


def read_results(file: Path) -> list[Measured]:
    """The results in a file, without lines that are damaged or cut off; none if it is not ours."""
    try:
        content = read_regular(file, _MOST_BYTES, why_not=say_why_not)
    except ArtifactError:
        return []
    return list(_parsed(content))


def _parsed(content: bytes) -> Iterator[Measured]:
    for line in filter(None, content.split(b"\n")):
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            yield _measured(json.loads(line))


def _measured(data: Any) -> Measured:
    """A result from JSON values; raises ValueError, KeyError or TypeError if they are none."""
    kernel, tile, ratio = data["kernel"], Tile(**data["tile"]), data["ratio"]
    counts = tile.pixels, tile.vectors, tile.kept
    if not (isinstance(kernel, str) and isinstance(tile.kind, str)):
        raise ValueError("no kernel, or no kind")  # noqa: TRY004, as what is in a file is no type
    if any(type(n) is not int or n < 1 for n in counts) or tile.kept > ALL_KEPT:
        raise ValueError("no tile")
    if type(ratio) is not float or not 0 < ratio < math.inf:
        raise ValueError("no ratio")
    return Measured(kernel, tile, ratio)


def _keep(file: Path, results: Sequence[Measured]) -> None:
    try:
        make_private(file.parent)
        append_results(file, results)
    except OSError as e:
        say_not_kept("what tuning has measured is not kept", file.parent, e)


def _results_file(target: Target, cache: Cache) -> Path | None:
    """One file for each kind of CPU and each version; None if nothing is to be kept."""
    folder = folder_of(cache)
    if folder is None or not is_private(folder / "tuned"):
        return None
    about = repr((target, _cpu_model(), VERSION, TVM_VERSION))
    name = hashlib.sha256(about.encode()).hexdigest()[:16]
    return folder / "tuned" / f"{name}.jsonl"


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("model name")), "")


def tuner_of(tiles: Mapping[str, Tile]) -> Tuner:
    """The tuner that gives kernels these tiles, where they are possible."""

    def choose(kernel: str, possible: Sequence[Tile]) -> Tile | None:
        tile = tiles.get(kernel)
        return tile if tile in possible else None

    return choose
