"""Compiled code, loaded and ready to run."""

from __future__ import annotations

import os
import queue
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import tvm
from torch import Tensor
from tvm import relax

from qpc.backends.tvm.build import Code
from qpc.backends.tvm.lower import LoweredFunction

_T = TypeVar("_T")
THREAD_NAME = "qpc-model"
_LOAD_BYTECODE = "ffi.Module.load_from_bytes.relax.VMExecutable"
_BUILTIN = "vm.builtin."  # functions of the virtual machine itself
_ALIGNMENT = 64  # what TVM asks of a tensor's address
_SHARE_ALL_CORES = -3  # TVM's ThreadGroup::kSpecifyThreadShareAllCore


@dataclass(frozen=True)
class _Function:
    call: Callable[..., Any]
    copied: tuple[bool, ...]


@dataclass(frozen=True)
class RecordedCall:
    """A call of a kernel that a program made; `run` makes it again, on the same memory.

    bytes: of all its arguments, the result included.
    """

    kernel: str
    run: Callable[[], object]
    bytes: int


class Program:
    """The functions of a compiled model with their weights; one call runs at a time.

    `threads` is how many threads a call may use. With one thread a call runs in the thread of its
    caller. With more, it runs in a thread of its own: TVM keeps one pool of workers per calling
    thread, and configures it for the calling thread only.
    """

    def __init__(
        self,
        code: Code,
        functions: Mapping[int, LoweredFunction],
        weights: Mapping[str, Tensor],
        threads: int,
    ) -> None:
        self._lock = threading.Lock()
        self._executable, self._lowered = _load(code), functions
        self._weights = {name: _to_tvm(tensor) for name, tensor in weights.items()}
        machine = relax.VirtualMachine(self._executable, tvm.cpu())
        self._functions = {
            batch: _Function(_bind(machine, f, self._weights), f.copied)
            for batch, f in functions.items()
        }
        self._worker = _Worker(threads) if threads > 1 else None

    def run(self, batch: int, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs for one batch."""
        function = self._functions[batch]
        arguments = [_to_tvm(tensor) for tensor in inputs]
        results = self.in_its_thread(lambda: function.call(*arguments))
        tensors = [torch.utils.dlpack.from_dlpack(r) for r in results]
        return [t.clone() if c else t for t, c in zip(tensors, function.copied, strict=True)]

    def in_its_thread(self, task: Callable[[], _T]) -> _T:
        """The result of `task`, run in the thread whose workers the kernels use."""
        with self._lock:
            return task() if self._worker is None else self._worker.run(task)

    def record(self, batch: int, inputs: Sequence[Tensor]) -> list[RecordedCall]:
        """Run once and return every call of a kernel, in order.

        A machine of its own does it: no machine forgets that it was to report its calls.
        """
        calls: list[RecordedCall] = []

        def instrument(
            function: Callable[..., Any], name: str, before: bool, _: object, *arguments: Any
        ) -> None:
            if before and not name.startswith(_BUILTIN):
                tensors = [a for a in arguments if isinstance(a, tvm.runtime.Tensor)]
                size = sum(prod(t.shape) * np.dtype(str(t.dtype)).itemsize for t in tensors)
                calls.append(RecordedCall(name, partial(function, *arguments), size))

        machine = relax.VirtualMachine(self._executable, tvm.cpu())
        function = _bind(machine, self._lowered[batch], self._weights)
        machine.set_instrument(instrument)
        tensors = [_to_tvm(tensor) for tensor in inputs]
        self.in_its_thread(lambda: function(*tensors))
        return calls


def _load(code: Code) -> Any:
    executable = tvm.get_global_func(_LOAD_BYTECODE)(code.bytecode)
    if code.library:
        # Once it is loaded the library no longer needs its name in the file system.
        with tempfile.TemporaryDirectory(prefix="qpc-") as folder:
            path = Path(folder, "kernels.so")
            path.write_bytes(code.library)
            executable.import_module(tvm.runtime.load_module(str(path)))
    return executable


def _bind(
    machine: relax.VirtualMachine, function: LoweredFunction, tensors: Mapping[str, Any]
) -> Callable[..., Any]:
    """The function with its weights, which are its last parameters."""
    name = f"{function.name}_bound"
    machine.save_function(function.name, name, *(tensors[w] for w in function.weights))
    return machine[name]  # type: ignore[no-any-return]


def _to_tvm(tensor: Tensor) -> Any:
    ready = tensor.contiguous()
    if ready.data_ptr() % _ALIGNMENT:
        ready = ready.clone()
    return tvm.runtime.from_dlpack(ready)


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

    def run(self, task: Callable[[], _T]) -> _T:
        """The result of `task`, run in the thread."""
        future: Future[_T] = Future()
        self._tasks.put((future, task))
        return future.result()


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
