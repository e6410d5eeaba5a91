"""Machine code that is loaded from memory, and freed when nobody needs it any more.

TVM's loader keeps every library for as long as the process lives. The little that it does for
kernels is done here: it tells the code where TVM's runtime is.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable

import tvm

from qpc.backends.tvm.scratch import in_scratch_file

LAUNCHER = "TVMBackendParallelLaunch"
"""What code calls that shares its work among threads."""
_RUNTIME = (
    LAUNCHER,
    "TVMBackendParallelBarrier",
    "TVMBackendAllocWorkspace",
    "TVMBackendFreeWorkspace",
    "TVMFFIFunctionCall",
    "TVMFFIErrorSetRaisedFromCStr",
    "TVMFFIHandleInitOnce",
    "TVMFFIEnvModLookupFromImports",
)
"""Functions of TVM's runtime; code that calls one has a variable `__NAME` for its address."""
_CONTEXT = "__tvm_ffi__library_ctx"  # a variable, see `_context`
_contexts: list[tuple[object, int | None]] = []  # one at most, with the module that it belongs to


class Library:
    """A shared library, loaded from the bytes of its file.

    It is unloaded with the last reference to it or to any of its functions.
    """

    def __init__(self, code: bytes) -> None:
        self._library = in_scratch_file(code, ctypes.CDLL)
        # Not at the end of the process: threads may be inside.
        weakref.finalize(self._library, _close, self._library._handle).atexit = False
        for name in _RUNTIME:
            if (variable := self._variable(f"__{name}")) is not None:
                variable.value = runtime_address(name)
        if (variable := self._variable(_CONTEXT)) is not None:
            variable.value = _context(code)

    def function(self, name: str) -> Callable[[ctypes.c_void_p], int]:
        """A function of it, which takes an address."""
        return self._library[name]  # holds the library

    @property
    def shares_work(self) -> bool:
        """Whether any of its code may run in several threads."""
        return self._variable(f"__{LAUNCHER}") is not None

    def _variable(self, name: str) -> ctypes.c_void_p | None:
        try:
            return ctypes.c_void_p.in_dll(self._library, name)
        except ValueError:  # it has none of this name
            return None


def runtime_address(name: str) -> int:
    """Where a function of TVM's runtime is, whose symbols are global."""
    address = ctypes.cast(ctypes.CDLL(None)[name], ctypes.c_void_p).value
    assert address is not None
    return address


def _context(code: bytes) -> int:
    """What code hands to TVM to find functions by name, such as those that sort.

    Only TVM's loader can make it. So one library with the first such code in the process is loaded
    by it, and stays; the context is the same for all, since none has functions to be found.
    """
    if not _contexts:
        load = tvm.get_global_func("ffi.Module.load_from_file.so")

        def made(path: str) -> tuple[object, int | None]:
            module = load(path, "so")
            return module, ctypes.c_void_p.in_dll(ctypes.CDLL(path), _CONTEXT).value

        _contexts.append(in_scratch_file(code, made))
    _, context = _contexts[0]
    assert context is not None
    return context


def _close(handle: int) -> None:
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(handle))
