"""Compiled code, loaded and ready to run."""

from __future__ import annotations

import ctypes
import threading
from array import array
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from qpc.backends.tvm.codegen.build import Code, EntryPoint
from qpc.backends.tvm.codegen.entry import TIMED
from qpc.backends.tvm.runtime.forks import renew_in_forks
from qpc.backends.tvm.runtime.library import Library
from qpc.backends.tvm.runtime.pages import allocate, moved_together
from qpc.backends.tvm.runtime.threads import Worker
from qpc.errors import BackendError
from qpc.types import TensorType

Array: TypeAlias = "np.ndarray[Any, Any]"
_ArrayType: TypeAlias = "tuple[tuple[int, ...], np.dtype[Any]]"


@dataclass(frozen=True)
class Loaded:
    """What never changes while a model runs, and any number of programs can use.

    inputs: the types of the inputs by batch size; entries: the entry points likewise.
    """

    library: Library
    entries: Mapping[int, EntryPoint]
    inputs: Mapping[int, Sequence[TensorType]]
    weights: dict[str, Tensor]

    @staticmethod
    def of(
        code: Code, inputs: Mapping[int, Sequence[TensorType]], weights: MutableMapping[str, Tensor]
    ) -> Loaded:
        """Load code; the weights move to memory of its own, and `weights` is empty afterwards."""
        library = Library(code.library)
        return Loaded(library, code.entries, inputs, moved_together(weights))


class Program:
    """The entry points of a compiled model, with memory to run them in; one call runs at a time.

    `threads` is how many threads a call may use. With one thread, and where no kernel is large
    enough to be shared, a call runs in the thread of its caller. Otherwise it runs in a thread of
    its own: TVM keeps one pool of workers per calling thread, and configures it for that only.

    In a forked process it has a lock and threads of its own.
    """

    def __init__(self, loaded: Loaded, threads: int) -> None:
        self.loaded = loaded
        arena = allocate(max((entry.arena for entry in loaded.entries.values()), default=0))
        self._calls = {
            batch: _Call(loaded, entry, len(loaded.inputs[batch]), arena)
            for batch, entry in loaded.entries.items()
        }
        self._calls_by_types = {
            tuple(map(_array_type, types)): self._calls[batch]
            for batch, types in loaded.inputs.items()
        }
        self._worker = Worker(threads) if threads > 1 and loaded.library.shares_work else None
        self.renew()
        renew_in_forks(self)

    def run(
        self, batch: int, inputs: Sequence[Tensor], stamps: Tensor | None = None
    ) -> list[Tensor]:
        """The outputs for one batch.

        stamps: where to note the CPU's time stamp counter before the first and after every step;
        see `empty_stamps`.
        """
        call = self._calls[batch]
        outputs = call.empty_outputs()
        places = [t.data_ptr() for t in (*inputs, *outputs)]
        self._in_turn(_Run(call, inputs, outputs, places, stamps))
        return outputs

    def empty_stamps(self, batch: int) -> Tensor:
        """Zeros for the time stamps of one run, int64[steps + 1]."""
        steps = len(self._calls[batch].entry.steps)
        return torch.zeros(steps + 1, dtype=torch.int64, device="cpu")

    def run_arrays(self, inputs: Sequence[object]) -> list[Array] | None:
        """The outputs for contiguous arrays of the shapes and types of a batch size, else None."""
        arrays: list[Array] = []
        for x in inputs:
            # A subclass, or what only looks like an array, may say anything about its memory.
            if type(x) is not np.ndarray or not x.flags.carray:
                return None
            arrays.append(x)
        call = self._calls_by_types.get(tuple([(x.shape, x.dtype) for x in arrays]))
        if call is None:
            return None
        outputs = [np.empty(shape, dtype) for shape, dtype in call.output_types]
        places = [x.__array_interface__["data"][0] for x in (*arrays, *outputs)]
        self._in_turn(_Run(call, arrays, outputs, places))
        return outputs

    def renew(self) -> None:
        """A new lock: in a forked process, whoever held the old one is gone."""
        self._lock = threading.Lock()
        self._inside: int | None = None  # the thread that has the lock

    def _in_turn(self, task: Callable[[], None]) -> None:
        thread, worker = threading.get_ident(), self._worker
        if self._inside == thread or (worker is not None and worker.runs_in(thread)):
            raise BackendError(
                "the model is called while a call of it runs in the same thread: in the handler of"
                " a signal, or while an object is destroyed",
                fix="call it later, or call another: model.clone()",
            )
        with self._lock:
            try:
                self._inside = thread
                if worker is None:
                    task()
                else:
                    worker.run(task)
            finally:
                self._inside = None


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of an entry point on tensors or arrays, which lie at `places`.

    It holds them: if the caller is interrupted, a thread goes on reading and writing there.
    """

    call: _Call
    inputs: Sequence[Tensor | Array]
    outputs: Sequence[Tensor | Array]
    places: Sequence[int]
    stamps: Tensor | None = None

    def __call__(self) -> None:
        self.call.run(self.places, 0 if self.stamps is None else self.stamps.data_ptr())


class _Call:
    """One entry point, with its table of addresses."""

    def __init__(self, loaded: Loaded, entry: EntryPoint, inputs: int, arena: Tensor) -> None:
        self.entry = entry
        self.output_types = [_array_type(t) for t in entry.outputs]
        self._run = loaded.library.function(entry.name)
        self._library = loaded.library
        self._kept = [arena, *(loaded.weights[name] for name in entry.weights)]
        first, *others = [tensor.data_ptr() for tensor in self._kept]
        changing = [0] * (inputs + len(entry.outputs))
        self._table = array("Q", [first, *changing, *others, 0])
        self._address = ctypes.c_void_p(self._table.buffer_info()[0])

    @cached_property
    def _run_timed(self) -> Callable[[ctypes.c_void_p], int]:
        """The entry point that notes times, which not all targets have."""
        return self._library.function(self.entry.name + TIMED)

    def empty_outputs(self) -> list[Tensor]:
        """Tensors to write the outputs to."""
        made = [torch.empty(t.shape, dtype=t.dtype, device="cpu") for t in self.entry.outputs]
        if any(type(tensor) is not Tensor for tensor in made):
            raise BackendError(
                "the model is called inside a mode of torch in which tensors have no memory, such"
                " as FakeTensorMode",
                fix="call it outside of the mode",
            )
        return made

    def run(self, places: Sequence[int], stamps: int = 0) -> None:
        """Run it on inputs and outputs at these addresses.

        stamps: where to note the time before the first and after each step, int64[steps + 1].
        """
        table = self._table
        for i, address in enumerate(places, 1):
            table[i] = address
        table[-1] = stamps
        if (self._run_timed if stamps else self._run)(self._address) != 0:
            raise BackendError("a kernel failed: the thread pool could not be started")


def _array_type(tensor: TensorType) -> _ArrayType:
    """Shape and dtype of the numpy array that a tensor would be."""
    if tensor.dtype is torch.bfloat16:  # there is none, so no array has this type
        return tensor.shape, np.dtype(object)
    return tensor.shape, torch.empty(0, dtype=tensor.dtype, device="cpu").numpy().dtype
