"""Work is handed out to all threads of a pool, once each; without one the caller does it."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")

from qpc.runtime import pool as pools
from qpc.runtime.library import Library, pool_key
from qpc.runtime.pool import Pool
from tests.robustness.small_models import small_model

pytestmark = pytest.mark.tvm

_TASK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
ANYWHERE = sorted(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(small_model(2)._parts.code.library)


@pytest.fixture(autouse=True)
def _back() -> Iterator[None]:
    """The calling thread is as it was, without a pool."""
    cpus = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cpus)
    pools._keep(0)


def share(library: Library, task: object, count: int = 0) -> int:
    return library.function("qpc_share")(task, None, ctypes.c_int(count))


def parts_of(told: int) -> int:
    """How many parts there are, as a part is told: behind an address."""
    return ctypes.c_int.from_address(told + ctypes.sizeof(ctypes.c_void_p)).value


def run(library: Library, count: int = 0, fail: int | None = None) -> tuple[int, list[int], int]:
    """What `qpc_share` returns, the parts that were done, and by how many threads."""
    done, doers = list[int](), set[int]()

    def task(part: int, told: int, _data: int | None) -> int:
        done.append(part)
        doers.add(threading.get_native_id())
        if part == 0 and count == 0:
            assert parts_of(told) >= 1
        time.sleep(0.001)
        return 7 if part == fail else 0

    code = share(library, _TASK(task), count)
    return code, sorted(done), len(doers)


def test_without_a_pool_the_caller_does_all(library: Library) -> None:
    assert run(library) == (0, [0], 1)
    assert run(library, 5) == (0, [0, 1, 2, 3, 4], 1)
    assert run(library, 5, fail=3)[0] != 0


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_part_is_done_once(library: Library, threads: int) -> None:
    pool = Pool(library, [ANYWHERE] * threads)
    for count in (0, 1, 2, 9):
        code, done, doers = run(library, count)
        assert (code, done) == (0, list(range(count or threads)))
        assert doers == min(threads, count or threads)
    pool.end()


@pytest.mark.parametrize("looks", ["0", "1", "100000"])
def test_threads_wake_up_whether_they_sleep_or_look(
    library: Library, monkeypatch: pytest.MonkeyPatch, looks: str
) -> None:
    monkeypatch.setenv("QPC_THREAD_LOOKS", looks)
    pool = Pool(library, [ANYWHERE] * 3)
    nothing = _TASK(lambda part, told, data: 0)
    for number in range(300):
        assert share(library, nothing) == 0
        if number % 100 == 99:
            time.sleep(0.01)
    pool.end()


def test_a_part_that_fails_is_told_and_the_next_call_is_new(library: Library) -> None:
    pool = Pool(library, [ANYWHERE] * 3)
    for fail in (0, 1, 2):
        assert run(library, fail=fail)[0] != 0
    assert run(library)[0] == 0
    pool.end()


def test_workers_end_with_the_pool(library: Library) -> None:
    before = set(threading.enumerate())
    pool = Pool(library, [ANYWHERE] * 4)
    workers = set(threading.enumerate()) - before
    assert {worker.name for worker in workers} == {"qpc-worker"}
    pool.end()
    for worker in workers:
        worker.join(10)
    assert not any(worker.is_alive() for worker in workers)


def test_those_that_started_end_if_others_cannot(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, start, count = set(threading.enumerate()), threading.Thread.start, iter(range(9))

    def refuse_the_third(thread: threading.Thread) -> None:
        if next(count) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_the_third)
        with pytest.raises(RuntimeError, match="can't start"):
            Pool(library, [ANYWHERE] * 4)
    for worker in set(threading.enumerate()) - before:
        worker.join(10)
        assert not worker.is_alive()
    assert run(library) == (0, [0], 1)


def test_a_process_has_one_key(library: Library) -> None:
    assert pool_key() == pool_key()


def test_memory_for_threads_may_be_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pools, "pool_key", lambda: 2**31)  # a key that is none
        with pytest.raises(MemoryError, match="no memory for what belongs to a thread"):
            pools._keep(1)
