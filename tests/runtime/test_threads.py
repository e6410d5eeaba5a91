from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tvm")

from qpc.errors import BackendError
from qpc.runtime import threads
from qpc.runtime.library import Library
from qpc.runtime.pool import LOOKS, looks
from qpc.runtime.threads import Worker, by_core, deal
from tests.robustness.small_models import small_model

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(small_model(2)._parts.code.library)


FOUR_CORES = [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize(
    ("count", "shares"),
    [
        (1, [[0, 4, 1, 5, 2, 6, 3, 7]]),
        (2, [[0, 4, 2, 6], [1, 5, 3, 7]]),
        (4, FOUR_CORES),
        (8, [[0], [4], [1], [5], [2], [6], [3], [7]]),
        (5, [[0, 6], [4, 3], [1, 7], [5], [2]]),
    ],
)
def test_cores_are_dealt_out_whole_while_they_last(count: int, shares: list[list[int]]) -> None:
    assert deal(FOUR_CORES, count) == shares


@given(st.lists(st.integers(1, 4), min_size=1, max_size=9), st.data())
def test_every_thread_has_cpus_and_no_two_threads_the_same(
    sizes: list[int], data: st.DataObject
) -> None:
    cpus = iter(range(sum(sizes)))
    cores = [[next(cpus) for _ in range(size)] for size in sizes]
    count = data.draw(st.integers(1, sum(sizes)))
    shares = deal(cores, count)
    assert len(shares) == count
    assert all(shares)
    assert sorted(cpu for share in shares for cpu in share) == list(range(sum(sizes)))


@pytest.mark.thorough
def test_there_are_no_more_threads_than_cpus(library: Library) -> None:
    _worker, made = _made(library, 100)
    assert len(made) == len(os.sched_getaffinity(0))


def test_cpus_are_grouped_by_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        (tmp_path / str(cpu)).write_text(siblings)
    monkeypatch.setattr(threads, "_TOPOLOGY", str(tmp_path / "{}"))
    assert by_core([0, 1, 2, 3]) == [[0, 2], [1, 3]]
    assert by_core([1, 2, 3]) == [[1, 3], [2]]
    assert by_core([0, 7, 8]) == [[0], [7], [8]]  # nothing is known about the last two


@pytest.mark.thorough
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core only")
def test_threads_of_a_model_are_on_different_cores(library: Library) -> None:
    _worker, made = _made(library)
    places = [os.sched_getaffinity(thread) for thread in made]
    assert len(places) == 2
    assert not places[0] & places[1]
    assert places[0] | places[1] == os.sched_getaffinity(0)


@pytest.mark.thorough
def test_a_core_that_is_gone_is_no_error(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "by_core", lambda cpus: [[4000], [4001]])
    _worker, made = _made(library)
    assert len(made) == min(2, len(os.sched_getaffinity(0)))
    assert all(os.sched_getaffinity(t) == os.sched_getaffinity(0) for t in made)


@pytest.mark.thorough
def test_workers_sleep_soon_after_a_call(library: Library) -> None:
    _worker, made = _made(library)
    time.sleep(0.02)
    ticks = sum(_ticks(thread) for thread in made)
    time.sleep(0.2)
    assert sum(_ticks(thread) for thread in made) - ticks <= 2  # of a hundredth of a second


@pytest.mark.thorough
def test_a_process_may_end_at_any_time(library: Library, tmp_path: Path) -> None:
    (tmp_path / "code").write_bytes(small_model(2)._parts.code.library)
    code = (
        "from pathlib import Path\n"
        "from qpc.runtime.library import Library\n"
        "from qpc.runtime.threads import Worker\n"
        f"library = Library(Path({str(tmp_path / 'code')!r}).read_bytes())\n"
        "kept = [Worker(4, library) for _ in range(5)]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_how_long_workers_wait_can_be_set_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looks() == LOOKS
    monkeypatch.setenv("QPC_THREAD_LOOKS", "7")
    assert looks() == 7
    monkeypatch.setenv("QPC_THREAD_LOOKS", "many")
    assert looks() == LOOKS


def test_without_threads_there_is_an_error_and_the_next_try_is_new(
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def no_pool(library: Library, count: int) -> None:
        raise OSError("no pool")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BackendError, match="cannot start the threads of the model: can't"):
            Worker(2, library)
    with monkeypatch.context() as patch:
        patch.setattr(threads, "_made_pool", no_pool)
        with pytest.raises(BackendError, match="threads of the model: no pool") as caught:
            Worker(2, library)
    assert "compile it with threads=1" in str(caught.value.fix)
    Worker(2, library).run(lambda: None)


def test_what_a_worker_was_given_is_freed(library: Library) -> None:
    class Big:
        pass

    worker, big = Worker(2, library), Big()
    watched = weakref.ref(big)
    worker.run(partial(id, big))
    del big
    worker.run(lambda: None)  # the thread has let go of the first before it takes the second
    assert watched() is None


def _made(library: Library, count: int = 2) -> tuple[Worker, set[int]]:
    """A worker of so many threads, and their numbers."""
    gc.collect()  # the threads of earlier tests' workers end in their own time
    before = _threads()
    worker = Worker(count, library)
    return worker, _threads() - before


def _threads() -> set[int]:
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


def _ticks(thread: int) -> int:
    """The processor time of a thread."""
    fields = Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
