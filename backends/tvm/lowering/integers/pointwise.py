"""Functions of one integer, as tables (lookup tables)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from qpc.backends.common.traits import MemoryOrder, StageKind, Traits
from qpc.backends.tvm.kernels import elementwise
from qpc.backends.tvm.kernels.epilogue import Requantize
from qpc.backends.tvm.kernels.geometry import View
from qpc.backends.tvm.kernels.kernel import Kernel
from qpc.backends.tvm.lowering.call import Call, KernelRule, emitted, grid_arguments, table_bytes
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.layout import Slice, Value
from qpc.calls import qpc_ops
from qpc.types import dtype_name


def _lookup(emit: Emitter, call: Call) -> Value | Slice:
    """A table from one integer type to another is one that `with_activations` has put there."""
    if call.result.dtype is torch.float32:
        return _lookup_float(emit, call)
    x = call.tensor("q")
    if x.dtype is not call.result.dtype:
        return _retyped(emit, call, emit.alone(x) if isinstance(x, Slice) else x)
    table = table_bytes(call.args["table"])

    def build(x: View) -> Kernel:
        return elementwise.lookup(emit.isa, x, table, emit.threads, call.share)

    return unary(emit, call, build)


def _retyped(emit: Emitter, call: Call, x: Value) -> Value | Slice:
    """Images go where the share is, or stay in their memory order."""
    if call.share is not None:
        images = emit.images(x)
        made = elementwise.retype(
            emit.isa, images.view, dtype_name(call.result.dtype), emit.threads, call.share
        )
        return emitted(emit, call, made, [images], images.shape)
    made = elementwise.retype(emit.isa, x.view, dtype_name(call.result.dtype), emit.threads)
    expr = emit.kernel(made, [x.expr], nodes=call.nodes)
    return replace(x, expr=expr, dtype=call.result.dtype)


def _prelu(emit: Emitter, call: Call) -> Value | Slice:
    args, x = call.args, emit.images(call.tensor("q"))
    numbers = Requantize(multiplier=args["positive"], **grid_arguments(args, "input_zero_point"))
    negative = args["negative"].numpy()
    made = elementwise.prelu(emit.isa, x.view, negative, numbers, emit.threads, call.share)
    return emitted(emit, call, made, [x], x.shape)


def _lookup_float(emit: Emitter, call: Call) -> Value | Slice:
    table = call.args["table"].numpy()

    def build(x: View) -> Kernel:
        return elementwise.real_lookup(emit.isa, x, table, emit.threads)

    return unary(emit, call, build)


def unary(emit: Emitter, call: Call, build: Callable[[View], Kernel]) -> Value | Slice:
    """In the memory order of the operand, unless it or the result is a slice."""
    x = call.tensor("q")
    if call.share is None and isinstance(x, Value):
        expr = emit.kernel(build(x.view), [x.expr], nodes=call.nodes)
        return replace(x, expr=expr, dtype=call.result.dtype)
    x = emit.images(x)
    return emitted(emit, call, build(x.view), [x], x.shape)


RULES: dict[object, KernelRule] = {
    qpc_ops.prelu.default: KernelRule(
        _prelu, Traits(order=MemoryOrder.IMAGES, in_place=True, constants=("negative",))
    ),
    qpc_ops.lookup.default: KernelRule(
        _lookup,
        Traits(order=MemoryOrder.KEPT, in_place=True, stage=StageKind.TABLE, constants=("table",)),
    ),
}
