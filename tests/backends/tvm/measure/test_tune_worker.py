from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("tvm")

import qpc
from qpc.backends.tvm.kernels.conv.tiling import Tile, Tuner
from qpc.backends.tvm.measure import tune_worker
from qpc.backends.tvm.measure.tuning import VARIANTS, Measured, Request, read_results
from qpc.targets import Target
from tests.quantizing import Parts, fake_quantized, integer

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = Parts(lambda m, x: m.conv(x).relu(), conv=nn.Conv2d(3, 32, 3))
    path = tmp_path_factory.mktemp("graph") / "graph"
    qpc.save_graph(integer(fake_quantized(model, torch.randn(2, 3, 10, 10))), path)
    return path


def request(graph: Path, folder: Path, **changes: Any) -> Request:
    asked = Request(
        str(graph), Target.native(), 1, 1, 100.0, True, known=[], results=str(folder / "results")
    )
    return replace(asked, **changes)


def run(asked: Request) -> list[Measured]:
    """What the worker measures, as far as it is not in the file before."""
    file = Path(asked.results)
    file.unlink(missing_ok=True)
    (file.parent / "request").write_text(asked.to_json())
    tune_worker.main(str(file.parent / "request"))
    return read_results(file)


@pytest.mark.thorough
def test_each_tile_is_measured_once(graph: Path, tmp_path: Path) -> None:
    found = run(request(graph, tmp_path))
    assert len(found) == VARIANTS
    assert len({result.tile for result in found}) == VARIANTS
    assert len({result.kernel for result in found}) == 1
    assert all(result.ratio > 0 for result in found)
    # What is known already is not measured again.
    rest = run(request(graph, tmp_path, known=found[:3]))
    assert [(r.kernel, r.tile) for r in rest] == [(r.kernel, r.tile) for r in found[3:]]
    assert run(request(graph, tmp_path, known=found)) == []


@pytest.mark.thorough
def test_a_target_of_the_user_and_another_cache_are_obeyed(graph: Path, tmp_path: Path) -> None:
    own = Target("mine", "x86_64-unknown-linux-gnu", ("sse4.1",), 4, "sse4.1")
    found = run(request(graph, tmp_path, target=own, cache=str(tmp_path / "cache")))
    assert len(found) == VARIANTS
    assert len(list((tmp_path / "cache/kernels").iterdir())) > VARIANTS


class Takes:
    """A compiled model of two calls of one kernel, which take so long by turns."""

    def __init__(self, *us: float) -> None:
        self._turns = itertools.cycle(us)

    def profile(self, *, repeats: int) -> SimpleNamespace:
        us = next(self._turns)
        calls = (("f", us), ("g", 100.0), ("f", us))
        return SimpleNamespace(calls=[SimpleNamespace(kernel=k, us=us) for k, us in calls])


TILES = [Tile(1, 4), Tile(2, 2), Tile(4, 1)]  # as the cost model ranks them


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Tile | None]:
    """The tiles with which models were compiled that take a time each."""
    tiles: list[Tile | None] = []

    def compile_graph(gm: object, target: Target, options: object, tuner: Tuner | None) -> Takes:
        tiles.append(None if tuner is None else tuner("f", TILES))
        return {None: Takes(2.0), TILES[1]: Takes(1.0, 3.0, 1.0), TILES[2]: Takes(5.0)}[tiles[-1]]

    monkeypatch.setattr(tune_worker, "load_graph", lambda path: path)
    monkeypatch.setattr(tune_worker, "compile_graph", compile_graph)
    return tiles


def test_every_tile_but_the_first_choice_is_compared_with_that(
    compiled: list[Tile | None], tmp_path: Path
) -> None:
    found = run(request(tmp_path, tmp_path))
    assert found == [Measured("f", TILES[1], 0.5), Measured("f", TILES[2], 2.5)]  # medians
    assert compiled[:4] == [TILES[1], None, TILES[2], None]
    known = [Measured("f", TILES[1], 9.0)]
    assert run(request(tmp_path, tmp_path, known=known)) == [Measured("f", TILES[2], 2.5)]


def test_it_ends_when_the_time_is_over(
    compiled: list[Tile | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(1000.0)
    monkeypatch.setattr("qpc.backends.tvm.measure.tune_worker.time.monotonic", lambda: next(clock))
    asked = request(tmp_path, tmp_path, seconds=2.0)  # it looks at the clock before each
    assert run(asked) == [Measured("f", TILES[1], 0.5)]


def test_without_time_nothing_is_measured(graph: Path, tmp_path: Path) -> None:
    assert run(request(graph, tmp_path, seconds=0.0)) == []


def test_a_request_survives_its_journey(tmp_path: Path) -> None:
    known = [Measured("f", Tile(4, 2, 3, "winograd-2"), 0.5)]
    for cache in (True, False, "/a/folder"):
        asked = request(tmp_path, tmp_path, known=known, cache=cache)
        assert Request.from_json(asked.to_json()) == asked
    asked = Request.from_json(request(tmp_path, tmp_path, cache=Path("here")).to_json())
    assert asked.cache == str(Path("here").absolute())
