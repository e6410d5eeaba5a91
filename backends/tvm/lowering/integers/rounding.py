"""From floats to integers, and back."""

from __future__ import annotations

import torch

from qpc.backends.common.orders import identity
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
    made = layout_kernels.quantize(emit.isa, x.shape, order, *grid, emit.threads)
    expr = emit.kernel(made, [emit.logical(x)], nodes=call.nodes)
    return Value(expr, x.shape, emit.activation, order)


def _dequantize(emit: Emitter, call: Call) -> Value:
    args, q = call.args, call.args["q"]
    made = layout_kernels.dequantize(
        emit.isa, q.shape, q.order, args["scale"], args["zero_point"], emit.threads
    )
    expr = emit.kernel(made, [q.expr], nodes=call.nodes)
    return Value(expr, q.shape, torch.float32, identity(len(q.shape)))


RULES: dict[object, KernelRule] = {
    qpc_ops.quantize.default: KernelRule(_quantize, Traits()),
    qpc_ops.dequantize.default: KernelRule(_dequantize, Traits()),
}
