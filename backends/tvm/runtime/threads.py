"""Several threads for a model: one that calls it, and workers of TVM, each on cores of its own.

TVM keeps a pool of workers for every thread that calls it. Workers wait in a loop that gives the
core away in every round. Linux sees that two such threads get on well on one core, and may leave
them there, with another core idle. So the cores are dealt out among the threads of a model, and
within its share every thread goes where Linux sends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import tvm

from qpc.backends.tvm.interrupts import deferred_signals
from qpc.backends.tvm.runtime.forks import renew_in_forks
from qpc.backends.tvm.runtime.library import LAUNCHER
from qpc.errors import BackendError

THREAD_NAME = "qpc-model"
_SHARE_ALL_CORES = -3  # TVM's ThreadGroup::kSpecifyThreadShareAllCore
_SPIN = "TVM_THREAD_POOL_SPIN_COUNT"
# How often a worker looks for work before it sleeps: for about a millisecond, longer than the steps
# of a model between two that it takes part in. TVM's own 300,000 keep a core busy for 0.1 s.
_SPINS = 2000
_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_TASK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

_Tasks: TypeAlias = "queue.SimpleQueue[_Task | None]"


class Worker:
    """A thread with a pool of TVM workers, for as long as its owner lives.

    threads: how many they are together, at most; no more than CPUs that the process may use.

    A forked process has none of its parent's threads: there it starts new ones when it is used. One
    thread at a time may use it.

    The environment variable TVM_THREAD_POOL_SPIN_COUNT says how often workers look for work before
    they sleep; it is read once in a process, and set here if it is not.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._thread: threading.Thread | None = None
        self._task: _Task | None = None  # what the caller waits for
        self._start()
        renew_in_forks(self)

    def run(self, work: Callable[[], object]) -> None:
        """Run `work` in the thread, and wait for it.

        Where waiting is interrupted, the thread goes on, and later work waits for its end.
        """
        if self._thread is None:
            self._start()
        task = _Task(work)
        try:
            self._task = task
            self._tasks.put(task)
            task.done.acquire()
        finally:
            self._task = None
        if task.error is not None:
            raise task.error

    def runs_in(self, thread: int) -> bool:
        """Whether it is this thread, given by `threading.get_ident()`."""
        return self._thread is not None and self._thread.ident == thread

    def renew(self) -> None:
        """Forget the threads of the process from which this one was forked."""
        self._thread = None
        self._end.detach()
        if self._task is not None and self._task.done.locked():
            self._task.error = BackendError(
                "the process was forked while the model ran, and only its parent has the result",
                fix="call the model again",
            )
            self._task.done.release()

    def _start(self) -> None:
        ready = _Task(functools.partial(_make_pool, self._threads))
        # Workers run Python once, to settle, which would abort the process if it ended meanwhile.
        with deferred_signals():
            self._tasks: _Tasks = queue.SimpleQueue()
            self._end = weakref.finalize(self, self._tasks.put, None)
            thread = threading.Thread(
                target=_work, args=(self._tasks,), name=THREAD_NAME, daemon=True
            )
            try:
                thread.start()
                self._tasks.put(ready)
                ready.done.acquire()
            except RuntimeError as e:
                ready.error = e
            if ready.error is None:
                self._thread = thread
                return
        self._end()
        raise BackendError(
            f"cannot start the threads of the model: {ready.error}",
            fix="allow more threads (see ulimit -u), or compile it with threads=1",
        ) from ready.error


class _Task:
    """Something to do, a lock that is free when it is done, and what went wrong."""

    __slots__ = ("done", "error", "work")

    def __init__(self, work: Callable[[], object]) -> None:
        self.work = work
        self.done = threading.Lock()
        self.done.acquire()
        self.error: BaseException | None = None


def _work(tasks: _Tasks) -> None:
    """Run tasks until None comes; without a reference to the worker, which keeps it alive."""
    while (task := tasks.get()) is not None:
        try:
            task.work()
        except BaseException as e:
            task.error = e
        task.done.release()
        del task


def _make_pool(threads: int) -> None:
    """Give the calling thread a pool of so many workers, each on its share of the cores."""
    os.environ.setdefault(_SPIN, str(_SPINS))
    cpus = sorted(os.sched_getaffinity(0))
    threads = min(threads, len(cpus))  # more would only take turns; results are the same
    # TVM makes a pool of as many threads as CPUs are named.
    named = [str(cpu) for cpu in cpus[:threads]]
    tvm.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CORES, threads, named)
    _settle(deal(by_core(cpus), threads))


def _settle(shares: Sequence[Sequence[int]]) -> None:
    """Send every thread of the calling thread's pool to its share of the cores."""

    def settle(number: int, _environment: int | None, _data: int | None) -> int:
        with contextlib.suppress(OSError):  # a core that is gone by now: any other will do
            os.sched_setaffinity(0, shares[number % len(shares)])
        return 0

    ctypes.CDLL(None)[LAUNCHER](_TASK(settle), None, 0)  # 0: in all threads


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
