"""Models that are loaded and freed again and again, and temporary folders that cannot be used.

python -m tests.robustness.test_loading --tries 20000 --threads 2
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")

import qpc
from tests.robustness.small_models import Answers, small_graph, small_model

pytestmark = pytest.mark.tvm


_PATIENCE = 60.0  # seconds


@dataclass(frozen=True)
class Held:
    """What the process holds: mappings of our code, open files, threads, and memory in kB."""

    code: int
    mappings: int
    files: int
    threads: int
    memory: int

    @staticmethod
    def now() -> Held:
        gc.collect()
        maps = Path("/proc/self/maps").read_text()
        return Held(
            maps.count("/memfd:qpc"),
            len(maps.splitlines()),
            len(os.listdir("/proc/self/fd")),
            len(os.listdir("/proc/self/task")),
            int(Path("/proc/self/statm").read_text().split()[1]) * 4,
        )


def _settled() -> Held:
    """What is held when the threads of models that were freed before have ended."""
    held, deadline = Held.now(), time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        threading.Event().wait(0.1)
        earlier, held = held, Held.now()
        if (held.code, held.threads) == (earlier.code, earlier.threads):
            break
    return held


def cycles(tries: int, threads: int, folder: Path, report: int = 0) -> tuple[int, list[Held]]:
    """Load, call and free a model so often: wrong calls, and what was held four times."""
    answers = Answers()
    small_model(threads).save(folder / "model")
    wrong, held = 0, []
    for number in range(tries):
        wrong += answers.wrong_calls(qpc.load(folder / "model"), 1, number)
        if number % max(tries // 4, 1) == 0:
            held.append(Held.now())
            if report:
                print(number, held[-1], flush=True)  # noqa: T201
    before = held[0].threads
    deadline = time.monotonic() + _PATIENCE
    while Held.now().threads > before and time.monotonic() < deadline:
        threading.Event().wait(0.05)  # threads of freed models end in their own time
    return wrong, [*held, Held.now()]


@pytest.mark.thorough
@pytest.mark.parametrize("threads", [1, 2])
def test_loading_and_freeing_leaves_nothing(threads: int, tmp_path: Path) -> None:
    before = _settled().code  # of models that other tests hold
    wrong, held = cycles(12, threads, tmp_path)
    assert wrong == 0
    assert (held[-1].code, held[-1].files) == (before, held[0].files)
    if threads == 1:  # the stacks of threads that ended are kept for the next ones
        assert held[-1].mappings < held[0].mappings + 12  # four a load would be more
    assert held[-1].threads <= held[0].threads


def test_a_model_may_be_freed_while_a_thread_is_inside(tmp_path: Path) -> None:
    answers = Answers()
    small_model(2).save(tmp_path / "model")
    wrong: list[int] = []
    for seed in range(10):
        holder = [qpc.load(tmp_path / "model")]
        twin = holder[0].clone()
        threads = [
            threading.Thread(target=lambda m, s: wrong.append(answers.wrong_calls(m, 5, s)), args=a)
            for a in ((holder[0], seed), (twin, seed + 1))
        ]
        for thread in threads:
            thread.start()
        holder.clear()
        del twin
        for thread in threads:
            thread.join()
    assert wrong == [0] * 20


_LOAD_AND_CALL = """
import sys
import qpc
from tests.robustness.small_models import Answers, small_model
if sys.argv[1] == "compile":
    model = small_model(2)
    model.save("model")
else:
    model = qpc.load("model")
print(Answers().wrong_calls(model, 3, 0), "wrong")
"""


def _run(what: str, folder: Path, temporary: str | None = None) -> str:
    """Standard output of a process that compiles or loads a model in a folder."""
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "QPC_CACHE_DIR": str(folder / "cache")}
    if temporary is not None:
        environment["TMPDIR"] = temporary
    done = subprocess.run(
        [sys.executable, "-c", _LOAD_AND_CALL, what],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_neither_compiling_nor_loading_needs_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    model, answers = qpc.compile(small_graph(), cache=False), Answers()
    model.save(tmp_path / "model")
    assert answers.wrong_calls(qpc.load(tmp_path / "model"), 3, 0) == 0


@pytest.mark.slow
def test_a_full_temporary_folder_that_forbids_code_does_not_matter(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k,noexec", "none", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        (small / "full").write_bytes(bytes(4096))
        for what in ("compile", "load"):
            assert _run(what, tmp_path, temporary=str(small)) == "0 wrong\n"
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("threads", [1, 2])
def test_loading_and_freeing_many_times_leaves_nothing(threads: int, tmp_path: Path) -> None:
    wrong, held = cycles(3000, threads, tmp_path)
    assert wrong == 0
    assert held[-1].mappings < held[1].mappings + 100
    assert held[-1].memory < held[1].memory + 10_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        wrong, held = cycles(options.tries, options.threads, Path(folder), report=1)
    print(f"{options}: {wrong} wrong, {time.perf_counter() - start:.0f} s; at last {held[-1]}")  # noqa: T201


if __name__ == "__main__":
    main()
