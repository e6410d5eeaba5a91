"""The threads that share the work of one call: those that wait in the library for work.

The library of a model that is compiled for several threads holds what hands out work and what waits
for it, see `qpc.backends.tvm.codegen.sharing`. Between them stands a piece of memory, the pool:

    byte  type          what
       0  uint32        rounds: how often work was handed out
       4  uint32        how many workers sleep
       8  uint32        1 when workers are to end
      12  uint32        threads, with the one that calls
      16  uint32        how often a thread looks before it sleeps
      64  uint32        workers that are not done; the highest bit: the caller sleeps
      68  uint32        whether one of them failed
     the rest belongs to the library

`qpc_work(pool, number)` works as the worker of this number, from 1 up, until `qpc_stop(pool)`. A
thread hands out work if the address of a pool is kept under the library's key, and else does all of
it itself. One thread at a time may use a pool.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Sequence

import numpy as np

from qpc.runtime.arrays import Array
from qpc.runtime.library import Library, pool_key
from qpc.runtime.pages import address, allocate

_BYTES = 128
_THREADS, _LOOKS = 3, 4  # words of 32 bits
LOOKS = 1000
"""How often a thread looks for work before it sleeps: for about a millisecond, longer than the
steps of a model between two that it takes part in."""
_SETTING = "QPC_THREAD_LOOKS"
_NAME = "qpc-worker"


class Pool:
    """Workers for the thread that makes it, each on its share of the CPUs.

    shares: the CPUs of each thread; the first are for the calling one, which is sent there, too.
    """

    def __init__(self, library: Library, shares: Sequence[Sequence[int]]) -> None:
        self._stop = library.function("qpc_stop")
        self._memory = allocate(_BYTES)
        words = self._memory.view(np.uint32)
        words[_THREADS], words[_LOOKS] = len(shares), looks()
        _settle(shares[0])
        try:
            for number, share in enumerate(shares[1:], 1):
                threading.Thread(
                    target=_serve,
                    args=(library, self._memory, number, share),
                    name=_NAME,
                    daemon=True,
                ).start()
        except BaseException:
            self.end()
            raise
        _keep(address(self._memory))

    def end(self) -> None:
        """Let the workers go."""
        self._stop(ctypes.c_void_p(address(self._memory)))


def looks() -> int:
    """How often a thread looks for work before it sleeps: `$QPC_THREAD_LOOKS`, or LOOKS."""
    given = os.environ.get(_SETTING, "")
    return min(int(given), 2**31) if given.isdecimal() else LOOKS


def _serve(library: Library, memory: Array, number: int, share: Sequence[int]) -> None:
    _settle(share)
    library.function("qpc_work")(ctypes.c_void_p(address(memory)), ctypes.c_int(number))


def _settle(share: Sequence[int]) -> None:
    """Send the calling thread to its share of the CPUs."""
    with contextlib.suppress(OSError):  # a CPU that is gone by now: any other will do
        os.sched_setaffinity(0, share)


def _keep(pool: int) -> None:
    """Make it the pool of the calling thread."""
    failed = ctypes.CDLL(None).pthread_setspecific(ctypes.c_uint(pool_key()), ctypes.c_void_p(pool))
    if failed:
        raise MemoryError("there is no memory for what belongs to a thread")
