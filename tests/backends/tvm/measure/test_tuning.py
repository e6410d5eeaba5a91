from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

pytest.importorskip("tvm")

from qpc.backends.options import DEFAULT_SECONDS, seconds_of
from qpc.backends.tvm.codegen import cache
from qpc.backends.tvm.kernels.conv.tiling import Tile
from qpc.backends.tvm.measure import tuning
from qpc.backends.tvm.measure.tuning import (
    Measured,
    append_results,
    better_tiles,
    chosen,
    is_faster,
    read_results,
    tuner_of,
)
from qpc.children import Ended
from qpc.errors import BackendError, UnsupportedTargetError
from qpc.targets import TARGETS, Target
from qpc.targets.costs import Costs, MatrixCosts
from tests.dying import deaths
from tests.quantizing import Parts, fake_quantized, integer

A, B = Tile(4, 2), Tile(2, 4)


def graph() -> GraphModule:
    model = Parts(lambda m, x: m.linear(x), linear=nn.Linear(8, 16))
    return integer(fake_quantized(model, torch.randn(4, 8)))


def better(folder: Path | bool, **changes: Any) -> dict[str, Tile]:
    options: dict[str, Any] = {"batch": 1, "threads": 1, "seconds": 5.0, "cache": folder}
    return better_tiles(graph(), Target.native(), **(options | changes))


def test_the_argument_is_a_time() -> None:
    assert [seconds_of(t) for t in (True, False, 5, 0.5)] == [DEFAULT_SECONDS, 0.0, 5.0, 0.5]
    wrongs: tuple[Any, ...] = (0, -1.0, float("nan"), float("inf"), 10**400, "yes", None, [5])
    for wrong in wrongs:
        with pytest.raises(BackendError, match="tune must be a positive number of seconds") as e:
            seconds_of(wrong)
        assert e.value.fix == "tune=True for 60 seconds; 604800 at the most"


def test_the_fastest_tile_is_chosen_where_it_is_clearly_faster() -> None:
    found = [Measured("f", A, 0.9), Measured("f", B, 0.8), Measured("g", A, 0.99)]
    assert chosen(found) == {"f": B}
    assert chosen([]) == {}


def test_results_come_back(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    assert read_results(file) == []
    append_results(file, [Measured("f", A, 0.5)])
    append_results(file, [Measured("g", B, 1.5), Measured("h", B, 1.0)])
    assert [r.kernel for r in read_results(file)] == ["f", "g", "h"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_is_behind_half_a_line_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append_results(file, [Measured("f", A, 0.5)])
    whole = file.read_bytes()
    append_results(file, [Measured("g", B, 1.5)])
    line = file.read_bytes()[len(whole) :]
    for length in range(len(line)):
        file.write_bytes(whole + line[:length])
        append_results(file, [Measured("h", B, 1.0)])
        found = [r.kernel for r in read_results(file)]
        assert found in (["f", "h"], ["f", "g", "h"])


def test_a_writer_that_dies_anywhere_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append_results(file, [Measured("f", A, 0.5)])
    steps = []
    for step in deaths(lambda: append_results(file, [Measured("g", B, 1.5)])):
        steps.append(step)
        append_results(file, [Measured("h", A, 1.0)])
        assert {"f", "h"} <= {r.kernel for r in read_results(file)}
    assert len(steps) == 2  # open, write


GOOD = '{"kernel": "f", "tile": {"pixels": 4, "vectors": 2}, "ratio": 0.5}'


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"{}",
        b"[1]",
        b"3",
        b"[" * 100_000,
        GOOD.replace("0.5", "NaN").encode(),
        GOOD.replace("0.5", "Infinity").encode(),
        GOOD.replace("0.5", "-0.5").encode(),
        GOOD.replace("0.5", '"0.5"').encode(),
        GOOD.replace("0.5", "true").encode(),
        GOOD.replace("0.5", "9" * 400).encode(),
        GOOD.replace("0.5", "9" * 10_000).encode(),
        GOOD.replace("4", "0").encode(),
        GOOD.replace("4", "-1").encode(),
        GOOD.replace("4", "4.0").encode(),
        GOOD.replace("4", '"4"').encode(),
        GOOD.replace("4", "[4]").encode(),
        GOOD.replace("2}", '2, "kept": 17}').encode(),
        GOOD.replace("2}", '2, "kind": []}').encode(),
        GOOD.replace("2}", '2, "other": 1}').encode(),
        GOOD.replace('"f"', "7").encode(),
        GOOD[:-1].encode(),
    ],
    ids=lambda line: line[:60].decode(errors="replace"),
)
def test_a_line_that_is_no_result_spoils_no_other(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "results.jsonl"
    file.write_bytes(line + b"\n" + GOOD.encode() + b"\n" + line)
    assert read_results(file) == [Measured("f", A, 0.5)]


def test_the_tuner_gives_only_tiles_that_are_possible() -> None:
    tuner = tuner_of({"f": A})
    assert (tuner("f", [B, A]), tuner("f", [B]), tuner("g", [A])) == (A, None, None)


def pretend(
    monkeypatch: pytest.MonkeyPatch, ended: Ended, *results: Measured
) -> list[tuple[tuning.Request, float]]:
    """Measure these results in place of a child that ended so; returns what it is asked."""
    asked: list[tuple[tuning.Request, float]] = []

    def run_module(module: str, request: str, *, timeout: float, temporary: Path) -> Ended:
        assert (module, Path(request).parent) == ("qpc.backends.tvm.measure.tune_worker", temporary)
        asked.append((tuning.Request.from_json(Path(request).read_text()), timeout))
        append_results(Path(asked[-1][0].results), results)
        return ended

    monkeypatch.setattr(tuning, "run_module", run_module)
    return asked


def test_the_child_reads_what_it_is_asked_as_it_was_asked() -> None:
    costs = Costs(matrices=MatrixCosts(epilogue={1: 9, 3: 11}), line_bytes=128)
    target = replace(TARGETS[-1], name="mine", costs=costs)
    asked = tuning.Request("graph", target, 2, 1, 5.0, False, [Measured("f", A, 0.5)], "results")
    assert tuning.Request.from_json(asked.to_json()) == asked


def test_what_was_measured_is_kept_and_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = Measured("f", A, 0.5)
    asked = pretend(monkeypatch, Ended(None), result)  # it is killed as its time is over
    assert better(tmp_path) == {"f": A}
    assert asked[0][0].known == []
    assert (asked[0][0].seconds, asked[0][1]) == (5.0, 5.0)
    asked = pretend(monkeypatch, Ended(0))
    assert better(tmp_path) == {"f": A}
    assert asked[0][0].known == [result]
    assert better(False) == {}
    assert asked[1][0].known == []


def test_an_interrupt_leaves_what_was_measured_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_module(*arguments: str, **_: object) -> Ended:
        request = tuning.Request.from_json(Path(arguments[1]).read_text())
        append_results(Path(request.results), [Measured("f", A, 0.5)])
        raise KeyboardInterrupt

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(tuning, "run_module", run_module)
    with pytest.raises(KeyboardInterrupt):
        better(tmp_path)
    assert list((tmp_path / "temporary").iterdir()) == []
    pretend(monkeypatch, Ended(0))
    assert better(tmp_path) == {"f": A}


def test_a_process_that_fails_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, Ended(1, "", "Traceback\nOSError: no luck\n"), Measured("f", A, 0.5))
    with pytest.warns(UserWarning, match="process that measures failed: OSError: no luck"):
        assert better(tmp_path) == {"f": A}
    pretend(monkeypatch, Ended(-11))
    with pytest.warns(UserWarning, match="process that measures failed: crashed with SIGSEGV"):
        assert better(tmp_path) == {"f": A}


def test_that_nothing_was_measured_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, Ended(None))
    with pytest.warns(UserWarning, match="measured nothing within 5 s: allow more with tune=SEC"):
        assert better(tmp_path) == {}


def test_results_that_cannot_be_kept_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_told", set())
    (tmp_path / "tuned").touch()  # in the way
    pretend(monkeypatch, Ended(0), Measured("f", A, 0.5))
    with pytest.warns(UserWarning, match="what tuning has measured is not kept for the next time"):
        assert better(tmp_path) == {"f": A}


def test_results_that_others_may_write_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, Ended(0), Measured("f", A, 0.5))
    assert better(tmp_path) == {"f": A}
    pretend(monkeypatch, Ended(0))
    for place in (tmp_path / "tuned", next((tmp_path / "tuned").iterdir())):
        mode = place.stat().st_mode
        place.chmod(mode | 0o020)
        monkeypatch.setattr(cache, "_told", set())
        with pytest.warns(UserWarning, match="is not used, as it would be run: other users may"):
            assert better(tmp_path) == {}
        place.chmod(mode)
    assert better(tmp_path) == {"f": A}


def test_the_default_folder_is_that_of_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, Ended(0), Measured("f", A, 0.5))
    monkeypatch.setenv("QPC_CACHE_DIR", str(tmp_path))
    better(True)
    assert [file.suffix for file in (tmp_path / "tuned").iterdir()] == [".jsonl"]


def test_without_temporary_files_there_is_no_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    with pytest.raises(BackendError, match="cannot tune without a folder for temporary files") as e:
        better(False)
    assert e.value.fix == "set TMPDIR to a folder with space that can be written to"


def test_code_for_another_cpu_is_not_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "runs_here", lambda self: "this CPU lacks magic")
    with pytest.raises(UnsupportedTargetError, match=r"cannot tune for .*: this CPU lacks magic"):
        better_tiles(graph(), Target.parse("x86-64"), batch=1, threads=1, seconds=1, cache=False)


def test_a_machine_that_does_not_say_its_cpu_is_one_kind(tmp_path: Path) -> None:
    assert tuning._cpu_model(tmp_path / "missing") == ""
    (tmp_path / "cpuinfo").write_text("vendor: x\nmodel name\t: fast\n")
    assert tuning._cpu_model(tmp_path / "cpuinfo") == "model name\t: fast"


class Sleeper:
    """A model that takes a number of steps, on a clock that counts them."""

    now = 0.0

    def __init__(self, steps: float) -> None:
        self.steps = steps

    def __call__(self) -> None:
        Sleeper.now += self.steps

    def _example_inputs(self) -> list[Any]:
        return []


@pytest.mark.parametrize(("steps", "faster"), [(90, True), (99.5, False), (110, False)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_must_be_clearly_faster(
    steps: float, faster: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for clock in ("thread_time", "perf_counter"):
        monkeypatch.setattr(time, clock, lambda: Sleeper.now)
    tuned: Any = Sleeper(steps)
    plain: Any = Sleeper(100)
    assert is_faster(tuned, plain, threads) is faster
