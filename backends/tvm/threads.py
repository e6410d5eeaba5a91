"""Several threads for a model: one that calls it, and workers of TVM, each on cores of its own.

TVM keeps a pool of workers for every thread that calls it. Workers wait in a loop that gives the
core away in every round. Linux sees that two such threads get on well on one core, and may leave
them there, with another core idle. So the cores are dealt out among the threads of a model, and
within its share every thread goes where Linux sends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeAlias

import tvm

THREAD_NAME = "qpc-model"
_SHARE_ALL_CORES = -3  # TVM's ThreadGroup::kSpecifyThreadShareAllCore
_SPIN = "TVM_THREAD_POOL_SPIN_COUNT"
# How often a worker looks for work before it sleeps: for about a millisecond, longer than the steps
# of a model between two that it takes part in. TVM's own 300,000 keep a core busy for 0.1 s.
_SPINS = 2000
_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_TASK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

_Tasks: TypeAlias = "queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]"


class Worker:
    """A thread with a pool of TVM workers, for as long as its owner lives.

    threads: how many they are together, at most; no more than CPUs that the process may use.

    The environment variable TVM_THREAD_POOL_SPIN_COUNT says how often workers look for work before
    they sleep; it is read once in a process, and set here if it is not.
    """

    def __init__(self, threads: int) -> None:
        self._tasks: _Tasks = queue.SimpleQueue()
        thread = threading.Thread(
            target=_work, args=(self._tasks, threads), name=THREAD_NAME, daemon=True
        )
        thread.start()
        weakref.finalize(self, self._tasks.put, None)
        # Workers run Python once, to settle, which would abort the process if it ended meanwhile.
        self.run(lambda: None)

    def run(self, task: Callable[[], object]) -> None:
        """Run `task` in the thread, and wait for it."""
        future: Future[object] = Future()
        self._tasks.put((future, task))
        future.result()


def _work(tasks: _Tasks, threads: int) -> None:
    """Run tasks until None comes; without a reference to the worker, which keeps it alive."""
    os.environ.setdefault(_SPIN, str(_SPINS))
    cpus = sorted(os.sched_getaffinity(0))
    threads = min(threads, len(cpus))  # more would only take turns; results are the same
    # TVM makes a pool of as many threads as CPUs are named.
    named = [str(cpu) for cpu in cpus[:threads]]
    tvm.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CORES, threads, named)
    _settle(deal(by_core(cpus), threads))
    while (entry := tasks.get()) is not None:
        future, task = entry
        try:
            future.set_result(task())
        except BaseException as e:
            future.set_exception(e)
        del entry, future, task


def _settle(shares: Sequence[Sequence[int]]) -> None:
    """Send every thread of the calling thread's pool to its share of the cores."""

    def settle(number: int, _environment: int | None, _data: int | None) -> int:
        with contextlib.suppress(OSError):  # a core that is gone by now: any other will do
            os.sched_setaffinity(0, shares[number % len(shares)])
        return 0

    launch = ctypes.CDLL(None).TVMBackendParallelLaunch  # TVM makes its symbols global
    launch(_TASK(settle), None, 0)  # 0: in all threads


def by_core(cpus: Sequence[int]) -> list[list[int]]:
    """CPUs as Linux counts them, grouped by the core that they are threads of."""
    groups: dict[str, list[int]] = {}
    for cpu in cpus:
        try:
            siblings = Path(_TOPOLOGY.format(cpu)).read_text()
        except OSError:  # a sandbox without /sys: every CPU counts as a core
            siblings = str(cpu)
        groups.setdefault(siblings, []).append(cpu)
    return list(groups.values())


def deal(cores: Sequence[Sequence[int]], threads: int) -> list[list[int]]:
    """Shares of the CPUs of `cores` for as many threads, of which there are no more than CPUs.

    Cores are dealt out like cards, as neighbours are of one kind where there are fast and slow
    ones. Two threads share a core only where there are fewer cores than threads.
    """
    units = cores if threads <= len(cores) else [[cpu] for core in cores for cpu in core]
    return [[cpu for unit in units[i::threads] for cpu in unit] for i in range(threads)]
