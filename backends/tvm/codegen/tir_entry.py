"""Entry points written in TIR, TVM's language, which LLVM compiles.

Entry points and kernels must be compiled apart. LLVM is told that different buffers never overlap,
which holds within a kernel; of kernels that it could merge into their caller it does not, because
the arena uses memory again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.ir import PointerType

from qpc.backends.common.plan import Place
from qpc.backends.tvm.codegen.c_functions import POINTER, c_function, moved
from qpc.backends.tvm.codegen.cache import KernelCache
from qpc.backends.tvm.codegen.entry import EntryPlan
from qpc.backends.tvm.codegen.objects import entry_code, tvm_target
from qpc.targets import Target


class TirEntryWriter:
    """Writes entry points for whatever TVM's LLVM has machine code for."""

    def write(self, plans: Sequence[EntryPlan], target: Target, cache: KernelCache) -> bytes:
        """An object file; a plan is timed only where the target has a counter of time."""
        chosen = tvm_target(target)
        functions = {
            tvm.ir.GlobalVar(plan.name): _function(plan, chosen, target.counter) for plan in plans
        }
        return entry_code(functions, chosen, cache)


def _function(plan: EntryPlan, target: tvm.target.Target, counter: str | None) -> tirx.PrimFunc:
    """counter: the intrinsic that reads a counter of time."""
    table = _Table(plan)
    body: list[Any] = [table.declaration]
    if plan.timed:
        body += [table.times, table.note_time(counter, 0)]
    for number, call in enumerate(plan.calls):
        arguments = map(table.address, call.arguments)
        body += _checked(tirx.call_extern("int32", call.kernel, *arguments), number)
        if plan.timed:
            body.append(table.note_time(counter, number + 1))
    for copy in plan.copies:
        to, source = table.address(copy.to), table.address(copy.source)
        size = tirx.IntImm("int64", copy.source.size)
        body.append(tirx.Evaluate(tirx.call_extern(POINTER, "memcpy", to, source, size)))
    body.append(tirx.Return(tirx.IntImm("int32", 0)))
    attributes = {"global_symbol": plan.name, "target": target}
    return c_function([table.parameter], tirx.SeqStmt(body), attributes)


def _checked(call: Any, number: int) -> Iterator[Any]:
    """Call a kernel; if it fails, so does the entry point."""
    code = tirx.Var(f"code_{number}", "int32")
    failed = tirx.Evaluate(tvm.ir.Call("tirx.tvm_throw_last_error", [], ret_ty="int32"))
    yield tirx.Bind(code, call)
    yield tirx.IfThenElse(code != 0, failed, None)


class _Table:
    """The argument of an entry point."""

    def __init__(self, plan: EntryPlan) -> None:
        self._plan = plan
        self._buffer = tirx.decl_buffer((plan.times + 1,), "uint64", name="table")
        self.parameter = tirx.Var("table_ptr", _pointer(self._buffer))
        self.declaration = tirx.DeclBuffer(self._buffer, data=self.parameter)
        self._times = tirx.decl_buffer((len(plan.calls) + 1,), "int64", name="times")

    def address(self, place: Place) -> Any:
        """Of what lies at a place."""
        item, offset = self._plan.address(place)
        start = self._load(item, POINTER)
        return moved(start, offset) if offset else start

    @property
    def times(self) -> Any:
        """Declares the array for times."""
        address = self._load(self._plan.times, _pointer(self._times))
        return tirx.DeclBuffer(self._times, data=address)

    def note_time(self, counter: str | None, number: int) -> Any:
        assert counter is not None, "a plan is timed, and the target has no counter"
        now = tirx.call_llvm_intrin("int64", counter)
        return tirx.BufferStore(self._times, now, [tirx.IntImm("int32", number)])

    def _load(self, item: int, pointer: PointerType) -> Any:
        """An address of the table."""
        loaded = tirx.BufferLoad(self._buffer, [tirx.IntImm("int32", item)])
        return tvm.ir.Call("tirx.reinterpret", [loaded], ret_ty=pointer)


def _pointer(buffer: Any) -> PointerType:
    return PointerType(buffer.ty.dtype, buffer.ty.storage_scope)
