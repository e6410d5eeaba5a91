"""Matrix products of integers."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from qpc.backends.common.orders import identity, significant
from qpc.backends.common.traits import MemoryOrder, Traits
from qpc.backends.tvm.kernels.conv import linear as linear_kernels
from qpc.backends.tvm.lowering.call import Call, KernelRule, end_arguments, layer_constants
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.integers.epilogue import epilogue_of, joined_tensor
from qpc.backends.tvm.lowering.layout import Value
from qpc.calls import qpc_ops


def _linear(emit: Emitter, call: Call) -> Value:
    args, x = call.args, call.args["q"]
    features = len(x.shape) - 1
    if x.shape[-1] != 1 and significant(x.shape, x.order)[-1] != features:
        x = emit.stored_as(x, identity(len(x.shape)))
    order = (*(axis for axis in x.order if axis != features), features)
    o, k = args["weight"].shape
    shape = (*x.shape[:-1], o)
    rows = prod(x.shape[:-1])
    desc = linear_kernels.LinearDesc(rows, k, o, **end_arguments(args))
    epilogue, others = epilogue_of(emit, call, order)
    made = linear_kernels.linear(
        emit.isa, desc, layer_constants(call), epilogue, emit.threads, emit.tuner
    )
    joined, _ = joined_tensor(emit, call, order)
    added = [emit.view(v.expr, (rows, o)) for v in (*joined, *others)]
    inputs = [emit.view(x.expr, (rows, k)), *added]
    expr = emit.kernel(made, inputs, nodes=call.nodes)
    result = Value(expr, shape, call.result.dtype, order)
    return replace(result, expr=emit.view(expr, result.physical_shape))


_LAYER = Traits(
    order=MemoryOrder.LOGICAL, epilogue=True, constants=("weight", "bias", "multiplier")
)

RULES: dict[object, KernelRule] = {
    qpc_ops.linear.default: KernelRule(_linear, _LAYER),
    qpc_ops.linear_add.default: KernelRule(_linear, replace(_LAYER, joined="other")),
    qpc_ops.linear_float.default: KernelRule(_linear, replace(_LAYER, epilogue=False)),
}
