"""Several threads for a model: one that calls it, and workers, each on cores of its own.

Workers wait in a loop that gives the core away in every round. Linux sees that two such threads get
on well on one core, and may leave them there, with another core idle. So the cores are dealt out
among the threads of a model, and within its share every thread goes where Linux sends it.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from qpc.errors import BackendError
from qpc.interrupts import deferred_signals
from qpc.runtime.forks import renew_in_forks
from qpc.runtime.library import Library
from qpc.runtime.pool import Pool

THREAD_NAME = "qpc-model"
_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"

_Tasks: TypeAlias = "queue.SimpleQueue[_Task | None]"


class Worker:
    """A thread with a pool of workers for a library, for as long as its owner lives.

    threads: how many they are together, at most; no more than CPUs that the process may use.

    A forked process has none of its parent's threads: there it starts new ones when it is used. One
    thread at a time may use it.
    """

    def __init__(self, threads: int, library: Library) -> None:
        self._threads, self._library = threads, library
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
        ready = _Task(lambda: None)
        threads, library = self._threads, self._library
        with deferred_signals():
            self._tasks: _Tasks = queue.SimpleQueue()
            self._end = weakref.finalize(self, self._tasks.put, None)
            thread = threading.Thread(
                target=_work, args=(self._tasks, library, threads), name=THREAD_NAME, daemon=True
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


def _work(tasks: _Tasks, library: Library, threads: int) -> None:
    """Run tasks until None comes; without a reference to the worker, which keeps it alive.

    With the first, which does nothing, goes the error if the pool cannot be made.
    """
    pool = None
    while (task := tasks.get()) is not None:
        try:
            pool = pool or _made_pool(library, threads)
            task.work()
        except BaseException as e:
            task.error = e
        task.done.release()
        del task
    if pool is not None:
        pool.end()


def _made_pool(library: Library, threads: int) -> Pool:
    """A pool of so many threads, with the calling one, each on its share of the CPUs."""
    cpus = sorted(os.sched_getaffinity(0))
    # More threads than CPUs would only take turns; results are the same.
    return Pool(library, deal(by_core(cpus), min(threads, len(cpus))))


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
