"""Compiled code, loaded and ready to run."""

from __future__ import annotations

import ctypes
import os
import queue
import tempfile
import threading
import weakref
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import tvm
from torch import Tensor

from qpc.backends.tvm.build import TIMED, Code, EntryPoint
from qpc.backends.tvm.memory import ALIGNMENT
from qpc.errors import BackendError

THREAD_NAME = "qpc-model"
_SHARE_ALL_CORES = -3  # TVM's ThreadGroup::kSpecifyThreadShareAllCore


class Program:
    """The entry points of a compiled model with their weights; one call runs at a time.

    `threads` is how many threads a call may use. With one thread a call runs in the thread of its
    caller. With more, it runs in a thread of its own: TVM keeps one pool of workers per calling
    thread, and configures it for the calling thread only.
    """

    def __init__(self, code: Code, weights: Mapping[str, Tensor], threads: int) -> None:
        self._lock = threading.Lock()
        # TVM's loader tells the library where TVM's thread pool is; ctypes calls into it.
        self._module, library = _load(code.library)
        ready = {name: _aligned(tensor) for name, tensor in weights.items()}
        arena = _empty(max((entry.arena for entry in code.entries.values()), default=0))
        self._calls = {
            batch: _Call(library, entry, ready, arena) for batch, entry in code.entries.items()
        }
        self._worker = _Worker(threads) if threads > 1 else None

    def run(self, batch: int, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs for one batch."""
        call = self._calls[batch]
        outputs = [torch.empty(t.shape, dtype=t.dtype) for t in call.entry.outputs]
        self._in_turn(lambda: call.run(inputs, outputs))
        return outputs

    def time_stamps(self, batch: int, inputs: Sequence[Tensor]) -> list[int]:
        """The CPU's time stamp counter before the first and after every step of one call."""
        call = self._calls[batch]
        outputs = [torch.empty(t.shape, dtype=t.dtype) for t in call.entry.outputs]
        stamps = torch.zeros(len(call.entry.steps) + 1, dtype=torch.int64)
        self._in_turn(lambda: call.run(inputs, outputs, stamps))
        return stamps.tolist()

    def _in_turn(self, task: Callable[[], None]) -> None:
        with self._lock:
            if self._worker is None:
                task()
            else:
                self._worker.run(task)


class _Call:
    """One entry point, with its table of addresses."""

    def __init__(
        self, library: Any, entry: EntryPoint, weights: Mapping[str, Tensor], arena: Tensor
    ) -> None:
        self.entry = entry
        self._run, self._run_timed = library[entry.name], library[entry.name + TIMED]
        self._kept = [arena, *(weights[name] for name in entry.weights)]
        self._addresses = [tensor.data_ptr() for tensor in self._kept]

    def run(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], stamps: Tensor | None = None
    ) -> None:
        """Run it; with `stamps`, int64[steps + 1], note the time before and after each step."""
        arena, *weights = self._addresses
        given = [tensor.data_ptr() for tensor in (*inputs, *outputs)]
        table = array(
            "Q", [arena, *given, *weights, stamps.data_ptr() if stamps is not None else 0]
        )
        function = self._run if stamps is None else self._run_timed
        if function(ctypes.c_void_p(table.buffer_info()[0])) != 0:
            raise BackendError("a kernel failed: the thread pool could not be started")


def _load(library: bytes) -> tuple[Any, ctypes.CDLL]:
    # Once it is loaded the library no longer needs its name in the file system.
    with tempfile.TemporaryDirectory(prefix="qpc-") as folder:
        path = Path(folder, "kernels.so")
        path.write_bytes(library)
        return tvm.runtime.load_module(str(path)), ctypes.CDLL(str(path))


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor where no vector of it crosses a cache line."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else _empty_like(tensor).copy_(tensor)


def _empty_like(tensor: Tensor) -> Tensor:
    memory = _empty(tensor.numel() * tensor.element_size())
    return memory.view(tensor.dtype).view(tensor.shape)


def _empty(size: int) -> Tensor:
    """Aligned memory: uint8[size]."""
    memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8)
    start = -memory.data_ptr() % ALIGNMENT
    return memory[start : start + size]


class _Worker:
    """A thread with a pool of TVM workers, for as long as its owner lives."""

    def __init__(self, threads: int) -> None:
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._tasks = queue.SimpleQueue()
        thread = threading.Thread(
            target=_work, args=(self._tasks, threads), name=THREAD_NAME, daemon=True
        )
        thread.start()
        weakref.finalize(self, self._tasks.put, None)

    def run(self, task: Callable[[], object]) -> None:
        """Run `task` in the thread, and wait for it."""
        future: Future[object] = Future()
        self._tasks.put((future, task))
        future.result()


def _work(
    tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None], threads: int
) -> None:
    """Run tasks until None comes; without a reference to the worker, which keeps it alive."""
    cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
    configure = tvm.get_global_func("runtime.config_threadpool")
    # The first call makes a pool of as many threads as it names cores, and ties them to these.
    configure(_SHARE_ALL_CORES, threads, [cores[i % len(cores)] for i in range(threads)])
    configure(_SHARE_ALL_CORES, threads, cores)
    while (entry := tasks.get()) is not None:
        future, task = entry
        try:
            future.set_result(task())
        except BaseException as e:
            future.set_exception(e)
        del entry, future, task
