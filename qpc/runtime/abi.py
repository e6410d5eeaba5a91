"""What a compiled model and whoever runs it agree on, and the number that stands for it.

A saved model bears the number `ABI` of its writer, and is loaded by every version that knows this
number: versions of QPC, TVM or PyTorch do not matter. It stands for all of this:

- The entry points of the library: `int NAME(const uint64_t *table)`, with the addresses of the
  arena, of inputs, outputs and weights in the order of the manifest, and of an array for times,
  which only `NAME_timed` writes to. They return 0, or another number if a kernel failed.
- Where these begin: the arena at a multiple of 64 bytes, the others at one of their elements.
- What the library needs of others: functions of the system's C library, and those in `BORROWED`.
- The pool of threads, see `qpc.runtime.pool`: its fields, `qpc_work` and `qpc_stop`.
- What of the manifest is needed to run the model: all but "versions", "report" and "plans".
- How weights are made from saved ones, see `qpc.runtime.compact`.

The rule: whoever changes one of these so that an older reader would compute something else, or
crash, takes the next number. What older readers may leave alone is added under a new name, and the
number stays: readers ignore entries that they do not know. A reader gives up an old number when
nothing has written it for two minor versions.
"""

from __future__ import annotations

ABI = 2
"""What is written. 2: weights may be int8 that become int16 as they are."""
READ = frozenset({1, 2})
"""What can be read."""

TIMED = "_timed"
"""What the name of an entry point ends with that notes the time of each call."""

POOL_KEY = "qpc_pool_key"
"""A variable of libraries that share work among threads: the key of a thread's pool."""

CONTEXT = "__tvm_ffi__library_ctx"
BORROWED = (
    "TVMBackendParallelBarrier",
    "TVMBackendAllocWorkspace",
    "TVMBackendFreeWorkspace",
    "TVMFFIFunctionCall",
    "TVMFFIErrorSetRaisedFromCStr",
    "TVMFFIHandleInitOnce",
    "TVMFFIEnvModLookupFromImports",
)
"""Functions of TVM's runtime, for whose address a library that calls one has a variable `__NAME`.

Of QPC's own kernels none does; a custom kernel may. Such a model runs only where TVM is.
"""
