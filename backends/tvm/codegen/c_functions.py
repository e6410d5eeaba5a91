"""Kernels as plain C functions on raw pointers, which return 0.

TVM's own convention (packed functions) checks every tensor of every call at run time; here all of
that is known when the model is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import PointerType, PrimType
from tvm.tirx.buffer import is_buffer_var

from qpc.backends.common.memory import aligned
from qpc.backends.tvm.kernels.emit import FLAT
from qpc.backends.tvm.lowering.float_arithmetic import hidden, shown

POINTER = PointerType(PrimType("void"))
"""The type of an address of anything: `void *`."""

_PACKED_API = [
    "tirx.MakePackedAPI",
    "tirx.AnnotateEntryFunc",
    "tirx.FP8StorageLegalize",
    "tirx.BF16StorageLegalize",
]
# TVM's own passes simplify again and again, which takes seconds for unrolled table lookups and
# brings nothing: index arithmetic of 32 bits is what LLVM needs to find addresses that move evenly.
_NARROW = [tirx.transform.NarrowDataType(32), tirx.transform.StorageRewrite()]
_FLAT_PIPELINE = tvm.transform.Sequential([*_NARROW, tirx.transform.CommonSubexprElim()])
# What runs in several threads takes its variables from memory. There LLVM does not see how they
# hang together, and code that was not simplified before takes up to 1.6 times as long.
_PARALLEL_PIPELINE = tvm.transform.Sequential([*_NARROW, tirx.transform.StmtSimplify()])
_STACK_BYTES = 1024  # larger buffers of a kernel lie in the arena
_SCRATCH = "qpc.scratch_bytes"


def lower_kernels(kernels: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Kernels as functions of raw pointers; those that need scratch memory take one more."""
    named = {
        gv: function.with_attr("global_symbol", gv.name_hint)
        for gv, function in kernels.functions_items()
    }
    module = tirx.transform.BindTarget(target)(tvm.IRModule(named))
    pipeline, finalize, _ = tirx.get_tir_pipeline("default")
    if all(FLAT in function.attrs for function in named.values()):
        parallel = any(_runs_in_threads(function) for function in named.values())
        pipeline = _PARALLEL_PIPELINE if parallel else _FLAT_PIPELINE
    config = tvm.transform.PassContext.current().config
    with tvm.transform.PassContext(opt_level=3, config=config, disabled_pass=_PACKED_API):
        module = pipeline(_each(module, hidden))
    lowered = {gv: _on_pointers(f) for gv, f in _each(module, shown).functions_items()}
    return finalize()(tvm.IRModule(lowered))


def _each(module: tvm.IRModule, change: Callable[[tirx.PrimFunc], tirx.PrimFunc]) -> tvm.IRModule:
    """With `change` applied to kernels that TVM wrote; the others need no care."""
    functions = module.functions_items()
    return tvm.IRModule({gv: f if FLAT in f.attrs else change(f) for gv, f in functions})


def _runs_in_threads(function: tirx.PrimFunc) -> bool:
    kinds: set[int] = set()
    tvm_ffi.structural_walk(function.body, (tirx.For, lambda loop: kinds.add(int(loop.kind))))
    return int(tirx.ForKind.PARALLEL) in kinds


def scratch_bytes(function: tirx.PrimFunc) -> int:
    """How much scratch memory a lowered kernel needs."""
    return int(function.attrs[_SCRATCH])


def _on_pointers(function: tirx.PrimFunc) -> tirx.PrimFunc:
    parameters, declared = [], []
    for parameter in function.params:
        assert is_buffer_var(parameter)
        pointer = PointerType(parameter.ty.dtype, parameter.ty.storage_scope)
        parameters.append(tirx.Var(f"{parameter.name}_ptr", pointer))
        declared.append(tirx.DeclBuffer(parameter, data=parameters[-1]))
        offset = parameter.ty.elem_offset
        if isinstance(offset, tirx.Var):  # where tensors of any offset are taken: ours have none
            declared.insert(0, tirx.Bind(offset, tirx.const(0, offset.ty)))
    scratch = tirx.Var("scratch", PointerType(PrimType("uint8"), "global"))
    used = 0

    def allocate(allocation: tirx.AllocBuffer) -> Any:
        nonlocal used
        size = _size(allocation.buffer)
        # What lies in "local" memory becomes registers.
        if allocation.buffer.ty.storage_scope == "local" or size <= _STACK_BYTES:
            on_stack = {"disable_lower_builtin": tirx.IntImm("int32", 1)}
            annotations = dict(allocation.annotations or {}) | on_stack
            return tirx.AllocBuffer(allocation.buffer, annotations)
        pointer = PointerType(allocation.buffer.ty.dtype, allocation.buffer.ty.storage_scope)
        address = moved(scratch, used, pointer)
        used += aligned(size)
        return tirx.DeclBuffer(allocation.buffer, data=address)

    body = tvm_ffi.structural_map(function.body, (tirx.AllocBuffer, allocate), order="post")
    if used:
        parameters.append(scratch)
    for key, value in (("device_type", 1), ("device_id", 0)):  # for calls of packed functions
        body = tirx.AttrStmt(tvm.ir.StringImm("default"), key, tirx.IntImm("int32", value), body)
    body = tirx.SeqStmt([*declared, body, tirx.Return(tirx.IntImm("int32", 0))])
    return c_function(parameters, body, dict(function.attrs.items()) | {_SCRATCH: used})


def _size(buffer: Any) -> int:
    dtype = tvm.DataType(str(getattr(buffer.ty.dtype, "dtype", buffer.ty.dtype)))
    count: int = prod(int(d) for d in buffer.ty.shape)
    bits: int = dtype.bits * dtype.lanes
    return count * ((bits + 7) // 8)


# --- pieces of such functions ---------------------------------------------------------------------


def moved(address: tvm.ir.Expr, offset: int, pointer: PointerType = POINTER) -> tvm.ir.Expr:
    """The address so many bytes further on, as that of what `pointer` points to."""
    distance = tirx.IntImm("int64", offset)
    return tvm.ir.Call("tirx.handle_add_byte_offset", [address, distance], ret_ty=pointer)


def c_function(
    parameters: Sequence[tirx.Var], body: tirx.Stmt, attributes: Mapping[str, object]
) -> tirx.PrimFunc:
    """A function that returns int32; its attributes say what it is called, among others."""
    made = tvm.ir.make_node("ir.DictAttrs", **attributes)
    return tirx.PrimFunc(parameters, body, PrimType("int32"), made)
