"""What a library needs of TVM's runtime, given to it: where its functions are.

Only custom kernels that call functions of TVM by their names need any. See `qpc.runtime.abi`.
"""

from __future__ import annotations

import ctypes

from qpc.backends.tvm.compat import require_tvm
from qpc.runtime.abi import CONTEXT
from qpc.runtime.library import Library
from qpc.runtime.scratch import in_scratch_file

_contexts: list[tuple[object, int | None]] = []  # one at most, with the module that it belongs to


def lend(library: Library, code: bytes) -> None:
    """Tell a library, loaded from `code`, where the functions of TVM are that it calls.

    Raises MissingDependencyError without the right TVM.
    """
    require_tvm()
    for name in library.borrowed:
        variable = library.variable(f"__{name}")
        assert variable is not None
        variable.value = _address(name)
    if (variable := library.context) is not None:
        variable.value = _context(code)


def _address(name: str) -> int:
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
        import tvm

        load = tvm.get_global_func("ffi.Module.load_from_file.so")

        def made(path: str) -> tuple[object, int | None]:
            module = load(path, "so")
            return module, ctypes.c_void_p.in_dll(ctypes.CDLL(path), CONTEXT).value

        _contexts.append(in_scratch_file(code, made))
    _, context = _contexts[0]
    assert context is not None
    return context
