"""From a Relax function to a schedule: which kernel to call when, on which memory.

After fusion a Relax function is a list of kernel calls and of views. Here it becomes steps over
*memories*, the bytes of a tensor that a step makes, of an input or of a constant. Views are the
memory of their tensor, and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import tvm
from tvm import relax

from qpc.errors import BackendError

_VIEWS = frozenset({"relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten"})


@dataclass(frozen=True, eq=False)
class Memory:
    """`size` bytes that belong together.

    kind: "input", "weight" or "made" (by a step); index: which of the inputs or weights.
    """

    kind: Literal["input", "weight", "made"]
    index: int
    size: int


@dataclass(frozen=True)
class Step:
    """One call of a kernel: it reads the inputs and writes all of the outputs."""

    kernel: str
    inputs: tuple[Memory, ...]
    outputs: tuple[Memory, ...]


@dataclass
class Schedule:
    """The steps of a function, in order, and where what it returns lies."""

    steps: list[Step] = field(default_factory=list)
    results: list[Memory] = field(default_factory=list)


def schedule(
    function: relax.Function, inputs: int, constant: Callable[[tvm.runtime.Tensor], int]
) -> Schedule:
    """The schedule of a function whose first `inputs` parameters are inputs, the others weights.

    constant: takes a constant inside the function and returns the index of a further weight.
    Raises BackendError for what is neither a kernel call nor a view.
    """
    return _Reader(function, inputs, constant).read()


class _Reader:
    def __init__(
        self,
        function: relax.Function,
        inputs: int,
        constant: Callable[[tvm.runtime.Tensor], int],
    ) -> None:
        self._function, self._constant = function, constant
        self._found: dict[relax.Var, Any] = {}
        self._schedule = Schedule()
        for i, parameter in enumerate(function.params):
            size = size_in_bytes(parameter.ty)
            is_input = i < inputs
            self._found[parameter] = (
                Memory("input", i, size) if is_input else Memory("weight", i - inputs, size)
            )

    def read(self) -> Schedule:
        body = self._function.body
        for block in body.blocks:
            for binding in block.bindings:
                self._found[binding.var] = self._value(binding.value)
        returned = self._value(body.body)
        self._schedule.results = list(_flat(returned))
        return self._schedule

    def _value(self, expr: Any) -> Any:
        """The memory, or the nested tuple of memories, that an expression stands for."""
        if isinstance(expr, relax.Var):
            return self._found[expr]
        if isinstance(expr, relax.Tuple):
            return tuple(self._value(item) for item in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            return self._value(expr.tuple_value)[expr.index]
        if isinstance(expr, tvm.ir.GenericConst):
            index = self._constant(expr.value)
            return Memory("weight", index, size_in_bytes(expr.ty))
        if isinstance(expr, relax.Call):
            return self._call(expr)
        raise BackendError(f"cannot schedule {type(expr).__name__}: {expr}")

    def _call(self, call: relax.Call) -> Any:
        name = getattr(call.op, "name", "")
        if name in _VIEWS:
            return self._value(call.args[0])
        if name == "relax.call_tir_inplace":
            return self._call_in_place(call)
        if name != "relax.call_tir":
            raise BackendError(f"cannot schedule a call of {name or call.op}")
        inputs = tuple(self._value(argument) for argument in call.args[1].fields)
        made = call.ty_args[0]
        types = list(made.fields) if isinstance(made, relax.TupleType) else [made]
        outputs = tuple(Memory("made", -1, size_in_bytes(t)) for t in types)
        self._schedule.steps.append(Step(call.args[0].name_hint, inputs, outputs))
        return outputs if isinstance(made, relax.TupleType) else outputs[0]

    def _call_in_place(self, call: relax.Call) -> Memory:
        """A call that writes a part of its last argument, which then is its result."""
        *inputs, result = (self._value(argument) for argument in call.args[1].fields)
        assert isinstance(result, Memory)
        self._schedule.steps.append(Step(call.args[0].name_hint, tuple(inputs), (result,)))
        return result


def size_in_bytes(tensor: relax.TensorType) -> int:
    """Bytes of a tensor of that type; sizes are known."""
    bits: int = tvm.DataType(str(tensor.dtype.dtype)).bits
    count: int = prod(int(d) for d in tensor.shape)
    return count * ((bits + 7) // 8)


def _flat(value: Any) -> list[Memory]:
    if isinstance(value, Memory):
        return [value]
    return [memory for item in value for memory in _flat(item)]
