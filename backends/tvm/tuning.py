"""Measure other tiles than those that the cost model chooses, and take those that are faster.

The tiles of all layers are varied at once: in the first variant every layer has the tile that the
cost model puts second, then third, and so on. So every tile is measured where it stands, in the
whole model, in turns with the model that the cost model chooses. This happens in another process,
which may crash or be killed; what it has measured by then is kept in a file, and not measured
again. The result is taken only if the whole model is faster with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.fx import GraphModule

from qpc.backends.tvm._compat import TVM_VERSION
from qpc.backends.tvm.cache import Cache, default_folder
from qpc.backends.tvm.kernels.tiling import Tile, Tuner
from qpc.backends.tvm.model import CompiledModel
from qpc.errors import BackendError, UnsupportedTargetError
from qpc.storage import save_graph
from qpc.target import Target
from qpc.version import VERSION

DEFAULT_SECONDS = 60.0
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


def seconds_of(tune: object) -> float:
    """The time that a `tune=` argument allows."""
    if isinstance(tune, bool):
        return DEFAULT_SECONDS if tune else 0.0
    if not isinstance(tune, int | float) or not tune > 0:
        raise BackendError(f"tune must be a positive number of seconds or a bool, got {tune!r}")
    return float(tune)


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

    Measures for so many seconds at the most. Raises UnsupportedTargetError if code for `target`
    cannot run here.
    """
    if reason := target.runs_here():
        raise UnsupportedTargetError(
            f"cannot tune for {target.name!r}: {reason}", fix="tune on such a machine"
        )
    with tempfile.TemporaryDirectory(prefix="qpc-tune-") as folder:
        graph = Path(folder, "graph")
        save_graph(gm, graph)
        file = _results_file(target, cache, Path(folder))
        command = [sys.executable, "-m", "qpc.backends.tvm.tune_worker"]
        command += [str(graph), target.name, str(batch), str(threads), str(seconds), str(file)]
        with contextlib.suppress(subprocess.TimeoutExpired):  # what it has measured counts
            subprocess.run(command, check=False, timeout=seconds)
        return chosen(read_results(file))


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


# --- results on disk ------------------------------------------------------------------------------


def append_results(file: Path, results: Sequence[Measured]) -> None:
    """Add lines to a file that other processes may be adding to."""
    lines = "".join(json.dumps(asdict(result)) + "\n" for result in results)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(lines)


def read_results(file: Path) -> list[Measured]:
    """The results in a file; lines that are cut off are left out."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return []
    return list(_parsed(text))


def _parsed(text: str) -> Iterator[Measured]:
    for line in text.splitlines():
        try:
            data = json.loads(line)
            yield Measured(data["kernel"], Tile(**data["tile"]), float(data["ratio"]))
        except (ValueError, KeyError, TypeError):
            continue


def _results_file(target: Target, cache: Cache, temporary: Path) -> Path:
    """One file for each kind of CPU and each version; a temporary one without a cache."""
    if cache is False:
        return temporary / "tuned.jsonl"
    folder = default_folder() if cache is True else Path(cache)
    about = repr((target, _cpu_model(), VERSION, TVM_VERSION))
    name = hashlib.sha256(about.encode()).hexdigest()[:16]
    return folder / "tuned" / f"{name}.jsonl"


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("model name")), "")


def tuner_of(tiles: Mapping[str, Tile]) -> Tuner:
    """The tuner that gives kernels these tiles, where they are possible."""

    def choose(kernel: str, possible: Sequence[Tile]) -> Tile | None:
        tile = tiles.get(kernel)
        return tile if tile in possible else None

    return choose
