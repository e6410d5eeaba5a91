"""Epilogues: operators behind a layer that its kernel does before it stores the result."""

from __future__ import annotations

from dataclasses import replace

from qpc.backends.common.orders import Order
from qpc.backends.common.traits import StageKind
from qpc.backends.tvm.kernels.epilogue import AddTensor, Clamp, Lookup, Stage
from qpc.backends.tvm.lowering.call import Arguments, Call, table_bytes
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.layout import Slice, Value
from qpc.calls import arguments


def joined_tensor(emit: Emitter, call: Call, order: Order) -> tuple[list[Value | Slice], int]:
    """What joins the sums of a layer whose result is stored in `order`, and `Join.moved` of it."""
    other = call.args.get("other")
    if other is None:
        return [], 0
    if isinstance(other, Slice):
        if call.share is not None:
            return [other], other.first - call.share.first
        other = emit.alone(other)
    return [emit.stored_as(other, order)], 0


def epilogue_of(
    emit: Emitter, call: Call, order: Order
) -> tuple[tuple[Stage, ...], list[Value | Slice]]:
    """The stages behind a layer whose result is stored in `order`, and the tensors they add."""
    stages: list[Stage] = []
    others: list[Value | Slice] = []
    value = call.node
    for fused in call.stages:
        node, args = fused.node, fused.args
        if fused.stage is StageKind.SUM:
            behind_a = arguments(node)["a"] is value
            constants = add_stage(args, swapped=not behind_a)
            other: Value | Slice = args["b" if behind_a else "a"]
            if isinstance(other, Slice):
                assert call.share is not None, "a slice has the step of what is added to it"
                constants = replace(constants, moved=other.first - call.share.first)
            others.append(other if isinstance(other, Slice) else emit.stored_as(other, order))
            stages.append(constants)
        elif fused.stage is StageKind.TABLE:
            stages.append(Lookup(table_bytes(args["table"])))
        else:
            stages.append(Clamp(args["lo"], args["hi"]))
        value = node
    return tuple(stages), others


def add_stage(args: Arguments, *, swapped: bool) -> AddTensor:
    """The constants of `qpc::add`; swapped: for its second operand as the value so far."""
    a, b = ("b", "a") if swapped else ("a", "b")
    return AddTensor(
        args[f"{a}_zero_point"],
        args[f"{b}_zero_point"],
        args[f"{a}_multiplier"],
        args[f"{b}_multiplier"],
        args["shift"],
        args["output_zero_point"],
        args["lo"],
        args["hi"],
    )
