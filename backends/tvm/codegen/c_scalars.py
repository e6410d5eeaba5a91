"""Lowered kernels in terms that C has: no vectors, and no memory that only LLVM knows.

Kernels for one lane copy and fill memory in vectors all the same, which other targets want. Here
these become calls of `memcpy`, or loops.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, tirx

from qpc.backends.tvm.codegen.c_vectors import dense_start, element, in_vectors
from qpc.errors import BackendError

COPY = "memcpy"
"""What copies bytes in C."""

_WORDS = {
    "int32": ("load_word", ("int8x4", "uint8x4")),
    "int64": ("load_two_words", ("int16x4",)),
}
"""By type, the function of C that takes such a number from memory, wherever it begins, and the
types of vectors that are taken as one."""

_SHORT = 8  # bytes; to copy that few one by one costs no more than a call


def in_scalars(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The same function without vectors, all of its own memory as variables of C.

    Raises BackendError for vectors that are more than copied, filled or converted.
    """
    body = in_vectors(_with_words(function.body))
    entries = [(tirx.BufferStore, _plain), (ir.Call, _with_magnitude)]
    body = tvm_ffi.structural_map(body, entries, order="post")
    return function.with_body(_without_scopes(body))


def _with_magnitude(call: ir.Call) -> Any:
    """The magnitude of a float by its function of C, which TVM's printer does not know."""
    if getattr(call.op, "name", "") != "tirx.fabs":
        return call
    name = "fabsf" if str(call.ty) == "float32" else "fabs"
    return tirx.call_pure_extern(call.ty, name, *call.args)


def _with_words(body: tirx.Stmt) -> tirx.Stmt:
    """What is in memory as a vector and taken as a number is loaded as one."""
    words: dict[Any, Any] = {}
    types: dict[Any, str] = {}

    def note(call: ir.Call) -> None:
        if _is_reinterpreted(call):
            types[call.args[0]] = str(call.ty)

    def bound(statement: tirx.Bind) -> tirx.Stmt:
        dtype = types.get(statement.var)
        if dtype is None or not _is_word(statement.value, dtype):
            return statement
        words[statement.var] = word = tirx.Var(statement.var.name, dtype)
        return tirx.Bind(word, _word(statement.value, dtype))

    def taken(call: ir.Call) -> Any:
        if not _is_reinterpreted(call):
            return call
        (value,) = call.args
        if _is_word(value, str(call.ty)):
            return _word(value, str(call.ty))
        return words.get(value, call) if isinstance(value, ir.Var) else call

    tvm_ffi.structural_walk(body, (ir.Call, note))
    body = tvm_ffi.structural_map(body, (tirx.Bind, bound), order="post")
    return tvm_ffi.structural_map(body, (ir.Call, taken), order="post")


def _is_reinterpreted(call: ir.Call) -> bool:
    return getattr(call.op, "name", "") == "tirx.reinterpret" and str(call.ty) in _WORDS


def _is_word(value: Any, dtype: str) -> bool:
    if not isinstance(value, ir.TensorLoad) or str(value.ty) not in _WORDS[dtype][1]:
        return False
    return dense_start(value.indices) is not None


def _word(value: ir.TensorLoad, dtype: str) -> Any:
    address = tirx.address_of(element(value.source, value.indices[0].base))
    return tirx.call_extern(dtype, _WORDS[dtype][0], address)


def _without_scopes(body: tirx.Stmt) -> tirx.Stmt:
    """C knows one kind of memory; what is said to be in registers is so by its compiler."""
    renamed: dict[Any, Any] = {}

    def note(allocation: tirx.AllocBuffer) -> None:
        old = allocation.buffer
        if old.ty.storage_scope == "local":
            dtype = str(getattr(old.ty.dtype, "dtype", old.ty.dtype))
            renamed[old] = tirx.decl_buffer(old.ty.shape, dtype, old.name, scope="global")

    def replaced(variable: Any) -> Any:
        return renamed.get(variable, variable)

    tvm_ffi.structural_walk(body, (tirx.AllocBuffer, note))
    return tvm_ffi.structural_map(body, (ir.Var, replaced), order="post") if renamed else body


def _plain(store: tirx.BufferStore) -> tirx.Stmt:
    """A store of a vector as a loop over its elements, or as a copy."""
    (index,) = store.indices if len(store.indices) == 1 else (None,)
    if not isinstance(index, tirx.Ramp):
        return store
    lanes = int(index.lanes)
    source = store.value
    if (
        isinstance(source, ir.TensorLoad)
        and isinstance(source.indices[0], tirx.Ramp)
        and _is_dense(index)
        and _is_dense(source.indices[0])
        and _bytes(store) * lanes > _SHORT
    ):
        return _copied(store, lanes)
    if isinstance(source, tirx.Shuffle):
        return tirx.SeqStmt([_stored(store, _Lane(lane)) for lane in range(lanes)])
    at = tirx.Var("i", "int32")
    element = _stored(store, _Lane(at))
    return tirx.For(at, tirx.const(0), tirx.const(lanes), tirx.ForKind.SERIAL, element)


def _stored(store: tirx.BufferStore, lane: _Lane) -> tirx.Stmt:
    (index,) = store.indices
    return tirx.BufferStore(store.buffer, lane.of(store.value), [lane.of(index)])


def _copied(store: tirx.BufferStore, lanes: int) -> tirx.Stmt:
    to = tirx.address_of(element(store.buffer, store.indices[0].base))
    source = tirx.address_of(element(store.value.source, store.value.indices[0].base))
    size = tirx.IntImm("uint32", _bytes(store) * lanes)
    return tirx.Evaluate(tirx.call_extern("int32", COPY, to, source, size))


def _is_dense(ramp: tirx.Ramp) -> bool:
    return isinstance(ramp.stride, tirx.IntImm) and int(ramp.stride) == 1


def _bytes(store: tirx.BufferStore) -> int:
    """Of an element."""
    bits: int = tvm_ffi.dtype(str(store.value.ty).partition("x")[0]).bits
    return (bits + 7) // 8


class _Lane:
    """One element of what vectors are made of."""

    def __init__(self, at: tirx.Var | int) -> None:
        self._at = at

    def of(self, value: Any) -> Any:
        """The element of a vector; a scalar is itself."""
        if isinstance(value, tirx.Ramp):
            return value.base + self._at * value.stride
        if isinstance(value, tirx.Broadcast):
            return value.value
        if _lanes(value) == 1 and not isinstance(value, tirx.Shuffle):
            return value
        if isinstance(value, tirx.Cast):
            return tirx.Cast(str(value.ty).partition("x")[0], self.of(value.value))
        if isinstance(value, ir.TensorLoad):
            return value.source[self.of(value.indices[0])]
        if isinstance(value, tirx.Shuffle) and isinstance(self._at, int):
            return self._shuffled(value, int(value.indices[self._at]))
        raise BackendError(
            f"C has no vectors, in which a kernel computes {str(value)[:60]}",
            fix="form='objects', or another isa",
        )

    @staticmethod
    def _shuffled(value: tirx.Shuffle, lane: int) -> Any:
        """The lane of vectors that are numbered one after the other."""
        for part in value.vectors:
            lanes = _lanes(part)
            if lane < lanes:
                return _Lane(lane).of(part)
            lane -= lanes
        raise BackendError("a kernel takes a lane that its vectors do not have")


def _lanes(value: Any) -> int:
    return int(str(value.ty).partition("x")[2] or 1)
