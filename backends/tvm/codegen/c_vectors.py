"""Lowered kernels for MVE: vectors of C, which functions of its file load, store and compute.

The types `int8x4`, `int32x4`, `float32x4` and `int8x16` are those that code in C has names for;
four bytes are a vector of four integers there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm_ffi
from tvm import ir, tirx

C_NAMES: Mapping[str, str] = {
    "int8_t16": "bytes16",
    "int8_t4": "words4",
    "int32_t4": "words4",
    "float4": "floats4",
}
"""Of what TVM prints, the names in C."""

VECTOR_FUNCTIONS = frozenset(
    {
        "add_four",
        "add_four_products",
        "add_sixteen_products",
        "clamp_four",
        "four_floats",
        "four_words",
        "load_bytes16",
        "load_bytes4",
        "load_floats4",
        "load_words4",
        "look_up_four",
        "requantize_four",
        "store_bytes4",
    }
)
"""Functions that are written into a file whose kernels call them."""

_LOADS = {
    "int8x16": "load_bytes16",
    "int8x4": "load_bytes4",
    "int32x4": "load_words4",
    "float32x4": "load_floats4",
}
_LANES = 4


def in_vectors(body: tirx.Stmt) -> tirx.Stmt:
    """The same statements with vectors as C has them, where a function of C is called on any."""
    called: list[Any] = []
    tvm_ffi.structural_walk(body, (ir.Call, lambda call: called.append(is_vector_call(call))))
    if not any(called):
        return body
    body = _with_registers(body)
    body = tvm_ffi.structural_map(body, (tirx.BufferStore, _stored), order="post")
    return _with_loads(body)


def is_vector_call(value: Any) -> bool:
    """Whether it is a call of a function on vectors."""
    if not isinstance(value, ir.Call) or not len(value.args):
        return False
    first = value.args[0]
    return isinstance(first, ir.StringImm) and first.value in VECTOR_FUNCTIONS


def dense_start(indices: Any) -> Any | None:
    """Where elements begin that follow one another, if these are what the indices say."""
    if len(indices) != 1 or not isinstance(indices[0], tirx.Ramp):
        return None
    stride = indices[0].stride
    return indices[0].base if isinstance(stride, tirx.IntImm) and int(stride) == 1 else None


def element(buffer: Any, index: Any) -> Any:
    """An element of a buffer."""
    return buffer[index]


def _with_registers(body: tirx.Stmt) -> tirx.Stmt:
    """Sums in local memory, four lanes each, as variables of the type of vectors."""
    renamed = _quads(body)
    if not renamed:
        return body

    def loaded(load: ir.TensorLoad) -> Any:
        new = renamed.get(load.source)
        return load if new is None else element(new, _number(load.indices))

    def stored(store: tirx.BufferStore) -> Any:
        new = renamed.get(store.buffer)
        return (
            store if new is None else tirx.BufferStore(new, store.value, [_number(store.indices)])
        )

    body = tvm_ffi.structural_map(
        body, [(ir.TensorLoad, loaded), (tirx.BufferStore, stored)], order="post"
    )
    return tvm_ffi.structural_map(body, (ir.Var, lambda v: renamed.get(v, v)), order="post")


def _quads(body: tirx.Stmt) -> dict[Any, Any]:
    """Buffers in local memory that are accessed by four lanes only, and what they become."""
    found: dict[Any, Any] = {}

    def allocated(allocation: tirx.AllocBuffer) -> None:
        old = allocation.buffer
        dtype = str(getattr(old.ty.dtype, "dtype", old.ty.dtype))
        if old.ty.storage_scope == "local" and dtype == "int32":
            size = int(old.ty.shape[0]) // _LANES
            found[old] = tirx.decl_buffer((size,), "int32x4", old.name, scope="global")

    def accessed(access: ir.TensorLoad | tirx.BufferStore) -> None:
        if dense_start(access.indices) is None or int(access.indices[0].lanes) != _LANES:
            found.pop(access.source if isinstance(access, ir.TensorLoad) else access.buffer, None)

    tvm_ffi.structural_walk(body, (tirx.AllocBuffer, allocated))
    tvm_ffi.structural_walk(body, [(ir.TensorLoad, accessed), (tirx.BufferStore, accessed)])
    return found


def _number(indices: Any) -> Any:
    """The number of a vector among those of a buffer."""
    return tirx.IntImm("int32", int(indices[0].base) // _LANES)


def _stored(store: tirx.BufferStore) -> tirx.Stmt:
    """Four bytes that are computed, by the function that stores them."""
    start = dense_start(store.indices)
    computed = is_vector_call(store.value) or isinstance(store.value, ir.Var)
    if str(store.value.ty) != "int8x4" or start is None or not computed:
        return store
    address = tirx.address_of(element(store.buffer, start))
    return tirx.Evaluate(tirx.call_extern("int32", "store_bytes4", address, store.value))


def _with_loads(body: tirx.Stmt) -> tirx.Stmt:
    """Vectors that are computed with are loaded by functions; what is copied stays as it is."""
    copied: set[Any] = set()
    tvm_ffi.structural_walk(body, (tirx.BufferStore, lambda store: copied.add(store.value)))

    def loaded(load: ir.TensorLoad) -> Any:
        function = _LOADS.get(str(load.ty))
        start = dense_start(load.indices)
        if function is None or start is None or load in copied:
            return load
        address = tirx.address_of(element(load.source, start))
        return tirx.call_extern(str(load.ty), function, address)

    return tvm_ffi.structural_map(body, (ir.TensorLoad, loaded), order="post")
