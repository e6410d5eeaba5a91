"""Entry points: one C function that runs a whole model.

Kernels become plain C functions on raw pointers. The entry point calls them one after the other, so
a call of the model costs one call from outside, whatever the number of its layers. It takes a table
of addresses, of 64 bits each, and returns 0:

    arena, inputs, outputs, weights

Tensors in between, and what kernels need for themselves, lie in the arena at fixed places. A second
entry point does the same and notes the CPU's time stamp before the first and after every step: its
table ends with the address of an array for these.

Entry points and kernels must be compiled apart. LLVM is told that different buffers never overlap,
which holds within a kernel; of kernels that it could merge into their caller it does not, because
the arena uses memory again.

TVM's own convention (packed functions) checks
every tensor of every call at run time; here all of that is known when the model is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import PointerType, PrimType
from tvm.tirx.buffer import is_buffer_var

from qpc.backends.common.memory import Arena, Lifetime, aligned, arrange
from qpc.backends.common.plan import Kind, Place
from qpc.backends.tvm.codegen.schedule import Memory, Schedule
from qpc.backends.tvm.kernels.emit import FLAT
from qpc.backends.tvm.lowering.float_arithmetic import hidden, shown

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
_POINTER = PointerType(PrimType("void"))
_SCRATCH = "qpc.scratch_bytes"


@dataclass(frozen=True)
class Layout:
    """Where everything is that a schedule touches."""

    schedule: Schedule
    arena: Arena
    offsets: Mapping[Memory, int]
    """Where in the arena those are that lie there."""
    scratch: tuple[Place | None, ...]
    """Where each step has its scratch memory, if it needs any."""
    outputs: Mapping[Memory, int]
    """Which output a memory is, if it is one."""

    def place(self, memory: Memory) -> Place:
        """Where a memory is."""
        if memory.kind != "made":
            return Place(memory.kind, memory.index, memory.size)
        if memory in self.outputs:
            return Place("output", self.outputs[memory], memory.size)
        return Place("arena", self.offsets[memory], memory.size)


# --- kernels as C functions -----------------------------------------------------------------------


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
        address = _moved(scratch, used, pointer)
        used += aligned(size)
        return tirx.DeclBuffer(allocation.buffer, data=address)

    body = tvm_ffi.structural_map(function.body, (tirx.AllocBuffer, allocate), order="post")
    if used:
        parameters.append(scratch)
    for key, value in (("device_type", 1), ("device_id", 0)):  # for calls of packed functions
        body = tirx.AttrStmt(tvm.ir.StringImm("default"), key, tirx.IntImm("int32", value), body)
    body = tirx.SeqStmt([*declared, body, tirx.Return(tirx.IntImm("int32", 0))])
    return _function(parameters, body, dict(function.attrs.items()) | {_SCRATCH: used})


def _size(buffer: Any) -> int:
    dtype = tvm.DataType(str(getattr(buffer.ty.dtype, "dtype", buffer.ty.dtype)))
    count: int = prod(int(d) for d in buffer.ty.shape)
    bits: int = dtype.bits * dtype.lanes
    return count * ((bits + 7) // 8)


# --- the arena ------------------------------------------------------------------------------------


def lay_out(schedule: Schedule, scratch_of: Mapping[str, int]) -> Layout:
    """Decide where tensors and scratch memory lie; `scratch_of` has the bytes by kernel."""
    outputs: dict[Memory, int] = {}
    for i, result in enumerate(schedule.results):
        if result.kind == "made":
            outputs.setdefault(result, i)
    lives: dict[Memory, tuple[int, int]] = {}
    for number, step in enumerate(schedule.steps):
        for memory in (*step.inputs, *step.outputs):
            if memory.kind == "made" and memory not in outputs:
                first, _ = lives.get(memory, (number, number))
                lives[memory] = (first, number)
    scratch = [scratch_of[step.kernel] for step in schedule.steps]
    arena = arrange(
        [
            *(Lifetime(memory.size, *life) for memory, life in lives.items()),
            *(Lifetime(size, number, number) for number, size in enumerate(scratch)),
        ]
    )
    offsets = dict(zip(lives, arena.offsets, strict=False))
    of_scratch = zip(arena.offsets[len(lives) :], scratch, strict=True)
    needed = tuple(Place("arena", at, size) if size else None for at, size in of_scratch)
    return Layout(schedule, arena, offsets, needed, outputs)


# --- the entry point ------------------------------------------------------------------------------


def entry_point(
    name: str,
    layout: Layout,
    *,
    inputs: int,
    weights: int,
    target: tvm.target.Target,
    counter: str | None = None,
) -> tirx.PrimFunc:
    """The function that runs a schedule; see the module's docstring for its argument.

    counter: the intrinsic that reads a counter of time, to note it before and after every step.
    """
    results = layout.schedule.results
    table = _Table(inputs, len(results), weights, len(layout.schedule.steps) + 1)
    address = _Addresses(table, layout)
    body: list[Any] = []
    if counter:
        body += [table.times(), table.note_time(counter, 0)]
    for number, step in enumerate(layout.schedule.steps):
        arguments = [address(memory) for memory in (*step.inputs, *step.outputs)]
        if (scratch := layout.scratch[number]) is not None:
            arguments.append(table.address("arena", scratch.start))
        body += _checked(tirx.call_extern("int32", step.kernel, *arguments), number)
        if counter:
            body.append(table.note_time(counter, number + 1))
    for i, result in enumerate(results):
        if layout.outputs.get(result) != i and result.size:
            source, size = address(result), tirx.IntImm("int64", result.size)
            copy = tirx.call_extern(_POINTER, "memcpy", table.address("output", i), source, size)
            body.append(tirx.Evaluate(copy))
    body.append(tirx.Return(tirx.IntImm("int32", 0)))
    attributes = {"global_symbol": name, "target": target}
    return _function([table.parameter], tirx.SeqStmt([table.declaration, *body]), attributes)


def _checked(call: Any, number: int) -> Iterator[Any]:
    """Call a kernel; if it fails, so does the entry point."""
    code = tirx.Var(f"code_{number}", "int32")
    failed = tirx.Evaluate(tvm.ir.Call("tirx.tvm_throw_last_error", [], ret_ty="int32"))
    yield tirx.Bind(code, call)
    yield tirx.IfThenElse(code != 0, failed, None)


class _Table:
    """The argument of an entry point."""

    def __init__(self, inputs: int, outputs: int, weights: int, times: int) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._size = 1 + inputs + outputs + weights
        self._buffer = tirx.decl_buffer((self._size + 1,), "uint64", name="table")
        pointer = PointerType(self._buffer.ty.dtype, self._buffer.ty.storage_scope)
        self.parameter = tirx.Var("table_ptr", pointer)
        self.declaration = tirx.DeclBuffer(self._buffer, data=self.parameter)
        self._times = tirx.decl_buffer((times,), "int64", name="times")

    def address(self, kind: Kind, start: int) -> Any:
        """Of an input, output or weight by its number, or of what begins there in the arena."""
        if kind == "arena":
            return _moved(self._at(0), start)
        before = {"input": 0, "output": self._inputs, "weight": self._inputs + self._outputs}
        return self._at(1 + before[kind] + start)

    def times(self) -> Any:
        """Declares the array for time stamps."""
        pointer = PointerType(self._times.ty.dtype, self._times.ty.storage_scope)
        address = tvm.ir.Call("tirx.reinterpret", [self._load(self._size)], ret_ty=pointer)
        return tirx.DeclBuffer(self._times, data=address)

    def note_time(self, counter: str, number: int) -> Any:
        now = tirx.call_llvm_intrin("int64", counter)
        return tirx.BufferStore(self._times, now, [tirx.IntImm("int32", number)])

    def _at(self, index: int) -> Any:
        return tvm.ir.Call("tirx.reinterpret", [self._load(index)], ret_ty=_POINTER)

    def _load(self, index: int) -> Any:
        return tirx.BufferLoad(self._buffer, [tirx.IntImm("int32", index)])


@dataclass(frozen=True)
class _Addresses:
    """The address of any memory."""

    table: _Table
    layout: Layout

    def __call__(self, memory: Memory) -> Any:
        place = self.layout.place(memory)
        return self.table.address(place.kind, place.start)


def _moved(address: Any, offset: int, pointer: PointerType = _POINTER) -> Any:
    distance = tirx.IntImm("int64", offset)
    return tvm.ir.Call("tirx.handle_add_byte_offset", [address, distance], ret_ty=pointer)


def _function(parameters: list[Any], body: Any, attributes: Mapping[str, Any]) -> tirx.PrimFunc:
    made = tvm.ir.make_node("ir.DictAttrs", **attributes)
    return tirx.PrimFunc(parameters, body, PrimType("int32"), made)
