"""Replay test vectors with a shared library, where there is no C compiler.

    python -m qpc.backends.deploy.replay FOLDER LIBRARY CALLS

It is a process of its own, which machine code may end. What it prints is what `main.c` prints.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qpc.backends.deploy.abi import ELEMENTS
from qpc.backends.deploy.manifest import LibraryEntry, PortEntry, read_library
from qpc.backends.deploy.sample import VECTORS

_Bytes = npt.NDArray[np.uint8]


def main(arguments: Sequence[str]) -> int:
    """0 if all outputs are as expected, 1 if not."""
    folder, library, calls = arguments
    entry, files = read_library(folder)
    function = getattr(ctypes.CDLL(str(Path(folder, library).resolve())), entry.function)
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    call = _Call(entry, function)
    wrong = 0
    vectors = np.frombuffer(files[VECTORS], np.uint8)
    for number, case in enumerate(vectors.reshape(entry.cases, -1)):
        for problem in call.problems(case):
            wrong = 1
            _say(f"case {number}: {problem}")
    _say(f"{entry.cases} cases, {'not all equal' if wrong else 'all equal'}")
    for _ in range(0 if wrong else int(calls)):
        start = time.perf_counter_ns()
        call.run()
        _say(f"{time.perf_counter_ns() - start} ns")
    return wrong


class _Call:
    """The function of a library, with memory for all that it takes."""

    def __init__(self, entry: LibraryEntry, function: Any) -> None:
        self._entry, self._function = entry, function
        self._arena = _aligned(entry.arena_bytes, entry.arena_alignment)
        self._inputs = [_aligned(port.bytes, entry.arena_alignment) for port in entry.inputs]
        self._outputs = [_aligned(port.bytes, entry.arena_alignment) for port in entry.outputs]

    def run(self) -> int:
        """What the function returns."""
        inputs, outputs = (
            (ctypes.c_void_p * max(len(arrays), 1))(*(array.ctypes.data for array in arrays))
            for arrays in (self._inputs, self._outputs)
        )
        size = self._entry.arena_bytes
        return int(self._function(inputs, outputs, self._arena.ctypes.data, size))

    def problems(self, case: _Bytes) -> Sequence[str]:
        """What is wrong with the outputs of a test vector."""
        at = 0
        for array in self._inputs:
            array[:] = case[at : at + array.size]
            at += array.size
        self._arena[:] = 0xA5
        if code := self.run():
            return [f"{self._entry.function} returned {code}"]
        found = []
        for number, (port, array) in enumerate(
            zip(self._entry.outputs, self._outputs, strict=True)
        ):
            wrong = _differing(port, array, case[at : at + array.size])
            at += array.size
            if wrong.any():
                size, first = wrong.size, int(wrong.argmax())
                what = f"differs in {int(wrong.sum())} of {size} elements"
                found.append(f"output {number} {what}, first in element {first}")
        return found


def _differing(port: PortEntry, found: _Bytes, expected: _Bytes) -> npt.NDArray[np.bool_]:
    """Which elements of an output are not as expected."""
    size = ELEMENTS[port.dtype].bytes
    equal = (found.reshape(-1, size) == expected.reshape(-1, size)).all(1)
    if port.tolerance is None:
        return np.asarray(~equal)
    values = [_numbers(port.dtype, array) for array in (found, expected)]
    with np.errstate(invalid="ignore"):
        near = np.abs(values[0] - values[1]) <= port.tolerance
    none = np.isnan(values[0]) & np.isnan(values[1])  # of any bits
    return np.asarray(~(equal | near | none))


def _numbers(dtype: str, raw: _Bytes) -> npt.NDArray[np.float64]:
    if dtype == "bfloat16":
        wide = raw.view(np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).astype(np.float64)
    kind = {"float16": "float16"}.get(dtype, ELEMENTS[dtype].numpy)
    return raw.view(kind).astype(np.float64)


def _aligned(size: int, to: int) -> _Bytes:
    memory = np.zeros(size + to, np.uint8)
    first = -memory.ctypes.data % to
    return memory[first : first + size]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
