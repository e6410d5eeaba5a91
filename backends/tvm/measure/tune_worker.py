"""Measure variants of a graph: `python -m qpc.backends.tvm.measure.tune_worker REQUEST`.

The process of its own that `qpc.backends.tvm.measure.tuning` starts.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from qpc.backends.options import CompileOptions
from qpc.backends.tvm.compile import compile_graph
from qpc.backends.tvm.kernels.conv.tiling import Tile, Tuner
from qpc.backends.tvm.measure.tuning import VARIANTS, Measured, Request, append_results
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.storage import load_graph

_TURNS, _REPEATS = 5, 3


def main(request: str) -> None:
    """Measure one variant after the other, until all are measured or the time is over."""
    measure(Request.from_json(Path(request).read_text(encoding="utf-8")))


def measure(request: Request) -> None:
    """See `main`; results are added to their file variant by variant."""
    end = time.monotonic() + request.seconds
    gm = load_graph(request.graph)
    known = {(result.kernel, result.tile) for result in request.known}

    def compiled(tuner: Tuner | None) -> CompiledModel:
        return compile_graph(
            gm,
            request.target,
            CompileOptions((request.batch,), request.threads, request.cache),
            tuner,
        )

    plain: CompiledModel | None = None
    for rank in range(1, VARIANTS + 1):
        if time.monotonic() >= end:
            return
        variant = _Variant(rank, known)
        model = compiled(variant.choose)
        if variant.tiles:
            plain = plain or compiled(None)
            append_results(Path(request.results), _compare(plain, model, variant.tiles))


class _Variant:
    """Gives every kernel the tile of one rank, unless that has been measured before."""

    def __init__(self, rank: int, known: set[tuple[str, Tile]]) -> None:
        self._rank, self._known = rank, known
        self.tiles: dict[str, Tile] = {}

    def choose(self, kernel: str, possible: Sequence[Tile]) -> Tile | None:
        """The tile of a kernel that the cost model calls `kernel`."""
        if self._rank >= len(possible) or (kernel, possible[self._rank]) in self._known:
            return None
        self.tiles[kernel] = possible[self._rank]
        return possible[self._rank]


def _compare(plain: CompiledModel, model: CompiledModel, tiles: dict[str, Tile]) -> list[Measured]:
    """The ratio of times of each kernel, summed over its calls; both models take turns."""
    ratios: dict[str, list[float]] = {kernel: [] for kernel in tiles}
    for _ in range(_TURNS):
        ours, theirs = (m.profile(repeats=_REPEATS).calls for m in (model, plain))
        sums: dict[str, tuple[float, float]] = {}
        for a, b in zip(ours, theirs, strict=True):
            before = sums.get(b.kernel, (0.0, 0.0))
            sums[b.kernel] = (before[0] + a.us, before[1] + b.us)
        for kernel, found in ratios.items():
            mine, plains = sums[kernel]
            found.append(mine / max(plains, 1e-3))
    return [Measured(k, tiles[k], statistics.median(found)) for k, found in ratios.items()]


if __name__ == "__main__":
    main(*sys.argv[1:])
