"""From floats to integers, and back."""

from __future__ import annotations

import torch

from qpc.backends.common.orders import identity, is_elementwise
from qpc.backends.common.traits import Traits
from qpc.backends.tvm.kernels import layout as layout_kernels
from qpc.backends.tvm.lowering.call import Call, KernelRule
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.layout import Value
from qpc.calls import qpc_ops
from qpc.errors import BackendError
from qpc.types import dtype_name


def _quantize(emit: Emitter, call: Call) -> Value:
    args, x = call.args, call.args["x"]
    if x.dtype is not torch.float32:
        raise BackendError(
            f"integer kernels quantize float32, not {dtype_name(x.dtype)}",
            node=call.node,
            fix="convert it before: x.float()",
        )
    order = call.preferred or identity(len(x.shape))
    grid = (args["scale"], args["zero_point"], args["lo"], args["hi"])
    if x.stored_as(order):  # already in the order that is wanted
        stored = emit.stored_as(x, order)
        shape = stored.physical_shape
        made = layout_kernels.quantize(emit.isa, shape, identity(len(shape)), *grid, emit.threads)
        expr = emit.kernel(made, [stored.expr], nodes=call.nodes)
    else:
        made = layout_kernels.quantize(emit.isa, x.shape, order, *grid, emit.threads)
        expr = emit.kernel(made, [emit.logical(x)], nodes=call.nodes)
    return Value(expr, x.shape, emit.activation, order)


def _dequantize(emit: Emitter, call: Call) -> Value:
    """Floats in logical order, unless all of their readers take them as the integers lie."""
    args, q = call.args, call.args["q"]
    as_it_lies = all(map(is_elementwise, call.node.users))
    shape = q.physical_shape if as_it_lies else q.shape
    inside = identity(len(shape)) if as_it_lies else q.order
    grid = (args["scale"], args["zero_point"])
    made = layout_kernels.dequantize(emit.isa, shape, inside, *grid, emit.threads)
    expr = emit.kernel(made, [q.expr], nodes=call.nodes)
    return Value(expr, q.shape, torch.float32, q.order if as_it_lies else identity(len(q.shape)))


RULES: dict[object, KernelRule] = {
    qpc_ops.quantize.default: KernelRule(_quantize, Traits()),
    qpc_ops.dequantize.default: KernelRule(_dequantize, Traits()),
}
