"""Compiled code, loaded and ready to run."""

from __future__ import annotations

import ctypes
import threading
from array import array
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qpc.errors import BackendError
from qpc.runtime.abi import TIMED
from qpc.runtime.arrays import Array, ArrayType, Stored
from qpc.runtime.forks import renew_in_forks
from qpc.runtime.library import Library
from qpc.runtime.manifest import Entry
from qpc.runtime.pages import address, allocate, moved_together
from qpc.runtime.threads import Worker


@dataclass(frozen=True)
class Loaded:
    """What never changes while a model runs, and any number of programs can use.

    inputs: the types of the inputs by batch size; entries: the entry points likewise.
    """

    library: Library
    entries: Mapping[int, Entry]
    inputs: Mapping[int, Sequence[ArrayType]]
    weights: dict[str, Stored]

    @staticmethod
    def of(
        code: bytes,
        entries: Mapping[int, Entry],
        inputs: Mapping[int, Sequence[ArrayType]],
        weights: MutableMapping[str, Stored],
        lend: Callable[[Library, bytes], None] | None = None,
    ) -> Loaded:
        """Load code; the weights move to memory of its own, and `weights` is empty afterwards.

        lend: gives the library the functions of TVM that it calls. Raises BackendError if it calls
        some and there is no such function.
        """
        library = Library(code)
        if library.borrowed:
            if lend is None:
                raise BackendError(
                    f"the model calls functions of TVM: {', '.join(library.borrowed)}",
                    fix="load it with qpc.load where QPC and TVM are installed",
                )
            lend(library, code)
        return Loaded(library, entries, inputs, moved_together(weights))


class Program:
    """The entry points of a compiled model, with memory to run them in; one call runs at a time.

    `threads` is how many threads a call may use. With one thread, and where no kernel is large
    enough to be shared, a call runs in the thread of its caller. Otherwise it runs in a thread of
    its own, which has workers.

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
            tuple(t.plain for t in types): self._calls[batch]
            for batch, types in loaded.inputs.items()
        }
        shared = threads > 1 and loaded.library.shares_work
        self._worker = Worker(threads, loaded.library) if shared else None
        self.renew()
        renew_in_forks(self)

    def run_at(
        self,
        batch: int,
        tensors: Sequence[object],
        places: Sequence[int],
        stamps: int = 0,
    ) -> None:
        """Run one batch on inputs and outputs, which lie at `places`; they are kept until the end.

        stamps: the address of int64[steps + 1], where to note the counter of time before the first
        and after every step; 0 to note nothing.
        """
        self._in_turn(self._calls[batch], tensors, places, stamps)

    def run_arrays(self, inputs: Sequence[object]) -> list[Array] | None:
        """The outputs for contiguous arrays of the shapes and types of a batch size, else None."""
        arrays: list[Array] = []
        for x in inputs:
            # A subclass, or what only looks like an array, may say anything about its memory.
            if type(x) is not np.ndarray or not x.flags.c_contiguous or not x.flags.aligned:
                return None
            arrays.append(x)
        call = self._calls_by_types.get(tuple([(x.shape, x.dtype) for x in arrays]))
        if call is None:
            return None
        outputs = [np.empty(shape, dtype) for shape, dtype in call.output_types]
        places = [address(x) for x in (*arrays, *outputs)]
        self._in_turn(call, (*arrays, *outputs), places)
        return outputs

    def renew(self) -> None:
        """A new lock: in a forked process, whoever held the old one is gone."""
        self._lock = threading.Lock()
        self._inside: int | None = None  # the thread that has the lock

    def _in_turn(
        self, call: _Call, tensors: Sequence[object], places: Sequence[int], stamps: int = 0
    ) -> None:
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
                    call.run(places, stamps)
                else:
                    worker.run(_Run(call, tensors, places, stamps))
            finally:
                self._inside = None


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of an entry point on tensors or arrays, which lie at `places`.

    It holds them: if the caller is interrupted, a thread goes on reading and writing there.
    """

    call: _Call
    tensors: Sequence[object]
    places: Sequence[int]
    stamps: int

    def __call__(self) -> None:
        self.call.run(self.places, self.stamps)


class _Call:
    """One entry point, with its table of addresses."""

    def __init__(self, loaded: Loaded, entry: Entry, inputs: int, arena: Array) -> None:
        self.entry = entry
        self.output_types = [t.plain for t in entry.outputs]
        self._run = loaded.library.function(entry.name)
        self._library = loaded.library
        self._kept = [arena, *(loaded.weights[name].data for name in entry.weights)]
        first, *others = map(address, self._kept)
        changing = [0] * (inputs + len(entry.outputs))
        self._table = array("Q", [first, *changing, *others, 0])
        self._address = ctypes.c_void_p(self._table.buffer_info()[0])

    @cached_property
    def _run_timed(self) -> Callable[[ctypes.c_void_p], int]:
        """The entry point that notes times, which not all targets have."""
        return self._library.function(self.entry.name + TIMED)

    def run(self, places: Sequence[int], stamps: int = 0) -> None:
        """Run it on inputs and outputs at these addresses.

        stamps: where to note the time before the first and after each step, int64[steps + 1].
        """
        table = self._table
        for i, place in enumerate(places, 1):
            table[i] = place
        table[-1] = stamps
        if (self._run_timed if stamps else self._run)(self._address) != 0:
            raise BackendError("a kernel failed")
