"""Compiled code, loaded and ready to run."""

from __future__ import annotations

import ctypes
import tempfile
import threading
from array import array
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
import tvm
from torch import Tensor

from qpc.backends.tvm.build import TIMED, Code, EntryPoint
from qpc.backends.tvm.pages import allocate, moved_together
from qpc.backends.tvm.threads import Worker
from qpc.errors import BackendError
from qpc.shapes import TensorType

Array: TypeAlias = "np.ndarray[Any, Any]"
_ArrayType: TypeAlias = "tuple[tuple[int, ...], np.dtype[Any]]"

_LAUNCHER = "__TVMBackendParallelLaunch"  # where TVM puts an address, in code that needs it


class Program:
    """The entry points of a compiled model with their weights; one call runs at a time.

    `threads` is how many threads a call may use. With one thread, and where no kernel is large
    enough to be shared, a call runs in the thread of its caller. Otherwise it runs in a thread of
    its own: TVM keeps one pool of workers per calling thread, and configures it for that only.

    weights: the tensors that it was given, which have moved to memory of its own.
    """

    def __init__(
        self,
        code: Code,
        inputs: Mapping[int, Sequence[TensorType]],
        weights: MutableMapping[str, Tensor],
        threads: int,
    ) -> None:
        self._lock = threading.Lock()
        # TVM's loader tells the library where TVM's thread pool is; ctypes calls into it.
        self._module, library = _load(code.library)
        self.weights = moved_together(weights)
        arena = allocate(max((entry.arena for entry in code.entries.values()), default=0))
        self._calls = {
            batch: _Call(library, entry, len(inputs[batch]), self.weights, arena)
            for batch, entry in code.entries.items()
        }
        self._calls_by_types = {
            tuple(map(_array_type, types)): self._calls[batch] for batch, types in inputs.items()
        }
        shares = hasattr(library, _LAUNCHER)
        self._worker = Worker(threads) if threads > 1 and shares else None

    def run(self, batch: int, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs for one batch."""
        call = self._calls[batch]
        outputs = call.empty_outputs()
        self._in_turn(lambda: call.run(_addresses(inputs), _addresses(outputs)))
        return outputs

    def run_arrays(self, inputs: Sequence[object]) -> list[Array] | None:
        """The outputs for contiguous arrays of the shapes and types of a batch size, else None."""
        try:
            # Anything but an array has no such attributes, or none that are equal to these.
            found = tuple([(x.shape, x.dtype) for x in inputs])  # type: ignore[attr-defined]
            call = self._calls_by_types.get(found)
        except (AttributeError, TypeError):
            return None
        arrays = cast("Sequence[Array]", inputs)
        if call is None or not all(x.flags.carray for x in arrays):
            return None
        outputs = [np.empty(shape, dtype) for shape, dtype in call.output_types]
        read = [x.__array_interface__["data"][0] for x in arrays]
        written = [x.__array_interface__["data"][0] for x in outputs]
        self._in_turn(lambda: call.run(read, written))
        return outputs

    def time_stamps(self, batch: int, inputs: Sequence[Tensor]) -> list[int]:
        """The CPU's time stamp counter before the first and after every step of one call."""
        call = self._calls[batch]
        outputs = call.empty_outputs()
        stamps = torch.zeros(len(call.entry.steps) + 1, dtype=torch.int64)
        places = _addresses(inputs), _addresses(outputs)
        self._in_turn(lambda: call.run(*places, stamps.data_ptr()))
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
        self,
        library: Any,
        entry: EntryPoint,
        inputs: int,
        weights: Mapping[str, Tensor],
        arena: Tensor,
    ) -> None:
        self.entry = entry
        self.output_types = [_array_type(t) for t in entry.outputs]
        self._run, self._run_timed = library[entry.name], library[entry.name + TIMED]
        self._kept = [arena, *(weights[name] for name in entry.weights)]
        first, *others = _addresses(self._kept)
        changing = [0] * (inputs + len(entry.outputs))
        self._table = array("Q", [first, *changing, *others, 0])
        self._address = ctypes.c_void_p(self._table.buffer_info()[0])

    def empty_outputs(self) -> list[Tensor]:
        """Tensors to write the outputs to."""
        return [torch.empty(t.shape, dtype=t.dtype) for t in self.entry.outputs]

    def run(self, inputs: Sequence[int], outputs: Sequence[int], stamps: int = 0) -> None:
        """Run it on tensors at these addresses.

        stamps: where to note the time before the first and after each step, int64[steps + 1].
        """
        table = self._table
        for i, address in enumerate((*inputs, *outputs), 1):
            table[i] = address
        table[-1] = stamps
        if (self._run_timed if stamps else self._run)(self._address) != 0:
            raise BackendError("a kernel failed: the thread pool could not be started")


def _addresses(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _array_type(tensor: TensorType) -> _ArrayType:
    """Shape and dtype of the numpy array that a tensor would be."""
    if tensor.dtype is torch.bfloat16:  # there is none, so no array has this type
        return tensor.shape, np.dtype(object)
    return tensor.shape, torch.empty(0, dtype=tensor.dtype).numpy().dtype


def _load(library: bytes) -> tuple[Any, ctypes.CDLL]:
    # Once it is loaded the library no longer needs its name in the file system.
    with tempfile.TemporaryDirectory(prefix="qpc-") as folder:
        path = Path(folder, "kernels.so")
        path.write_bytes(library)
        return tvm.runtime.load_module(str(path)), ctypes.CDLL(str(path))
