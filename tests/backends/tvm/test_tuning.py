from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

pytest.importorskip("tvm")

from qpc.backends.tvm import tuning
from qpc.backends.tvm.kernels.tiling import Tile
from qpc.backends.tvm.tuning import (
    DEFAULT_SECONDS,
    Measured,
    append_results,
    better_tiles,
    chosen,
    is_faster,
    read_results,
    seconds_of,
    tuner_of,
)
from qpc.errors import BackendError, UnsupportedTargetError
from qpc.target import Target
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
    wrongs: tuple[Any, ...] = (0, -1.0, float("nan"), "yes", None)
    for wrong in wrongs:
        with pytest.raises(BackendError, match="tune must be a positive number of seconds"):
            seconds_of(wrong)


def test_the_fastest_tile_is_chosen_where_it_is_clearly_faster() -> None:
    found = [Measured("f", A, 0.9), Measured("f", B, 0.8), Measured("g", A, 0.99)]
    assert chosen(found) == {"f": B}
    assert chosen([]) == {}


def test_results_come_back_but_for_lines_that_were_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "new/results.jsonl"
    assert read_results(file) == []
    append_results(file, [Measured("f", A, 0.5)])
    append_results(file, [Measured("g", B, 1.5)])
    with file.open("a") as stream:
        stream.write('{"kernel": "h", "tile": {"pix')
    assert read_results(file) == [Measured("f", A, 0.5), Measured("g", B, 1.5)]
    file.write_text('{"kernel": "f"}\n[1]\n')
    assert read_results(file) == []


def test_the_tuner_gives_only_tiles_that_are_possible() -> None:
    tuner = tuner_of({"f": A})
    assert (tuner("f", [B, A]), tuner("f", [B]), tuner("g", [A])) == (A, None, None)


def test_what_a_killed_process_has_measured_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **options: Any) -> None:
        append_results(Path(command[-1]), [Measured("f", A, 0.5)])
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", run)
    assert better(tmp_path) == {"f": A}
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    assert better(tmp_path) == {"f": A}  # kept
    assert better(False) == {}


def test_the_default_folder_is_that_of_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Path] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: files.append(Path(command[-1])))
    monkeypatch.setenv("QPC_CACHE_DIR", str(tmp_path))
    better(True)
    assert files[0].parent == tmp_path / "tuned"


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
