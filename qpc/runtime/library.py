"""Machine code that is loaded from memory, and freed when nobody needs it any more."""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable
from typing import TypeVar

from qpc.errors import BackendError
from qpc.runtime.abi import BORROWED, CONTEXT, POOL_KEY
from qpc.runtime.scratch import in_scratch_file

_Variable = TypeVar("_Variable", ctypes.c_void_p, ctypes.c_uint)


class Library:
    """A shared library, loaded from the bytes of its file.

    It is unloaded with the last reference to it or to any of its functions.
    """

    def __init__(self, code: bytes) -> None:
        self._library = in_scratch_file(code, ctypes.CDLL)
        # Not at the end of the process: threads may be inside.
        weakref.finalize(self._library, _close, self._library._handle).atexit = False
        if (key := self._find(ctypes.c_uint, POOL_KEY)) is not None:
            key.value = pool_key()

    def function(self, name: str) -> Callable[..., int]:
        """A function of it."""
        try:
            return self._library[name]  # holds the library
        except AttributeError as e:
            raise BackendError(f"the code of the model has no function {name[:40]!r}") from e

    @property
    def shares_work(self) -> bool:
        """Whether any of its code may run in several threads."""
        return self._find(ctypes.c_uint, POOL_KEY) is not None

    @property
    def borrowed(self) -> list[str]:
        """The functions of TVM that it calls; see `qpc.runtime.abi`."""
        return [name for name in BORROWED if self.variable(f"__{name}") is not None]

    @property
    def context(self) -> ctypes.c_void_p | None:
        """The variable for what TVM finds functions in, if there is one."""
        return self.variable(CONTEXT)

    def variable(self, name: str) -> ctypes.c_void_p | None:
        """A variable of it that holds an address; None if it has none of this name."""
        return self._find(ctypes.c_void_p, name)

    def _find(self, kind: type[_Variable], name: str) -> _Variable | None:
        try:
            return kind.in_dll(self._library, name)
        except ValueError:
            return None


@functools.cache
def pool_key() -> int:
    """The key under which each thread of this process keeps the address of its pool."""
    key = ctypes.c_uint()
    if ctypes.CDLL(None).pthread_key_create(ctypes.byref(key), None) != 0:
        raise BackendError(
            "the process has no memory left that belongs to a thread",
            fix="compile the model with threads=1",
        )
    return key.value


def _close(handle: int) -> None:
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(handle))
