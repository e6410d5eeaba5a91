"""Sums and means of integers over axes."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from qpc.backends.common.traits import Traits
from qpc.backends.tvm.kernels import pooling
from qpc.backends.tvm.kernels.epilogue import Requantize
from qpc.backends.tvm.lowering.call import Call, KernelRule, average_of
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.layout import Value
from qpc.calls import qpc_ops
from qpc.ops.reduction import reduced_axes
from qpc.quant.arithmetic import average_multiplier


def _sum(emit: Emitter, call: Call) -> Value:
    return _reduced(emit, call, average_of(call.args, call.args["multiplier"]))


def _mean(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.tensor("q").shape
    count = prod(shape[axis] for axis in reduced_axes(args["dims"], len(shape)))
    factor = average_multiplier(args["input_scale"], args.get("output_scale", 1.0), count)
    return _reduced(emit, call, average_of(args, factor))


def _reduced(emit: Emitter, call: Call, requantize: Requantize | pooling.RealAverage) -> Value:
    args, x = call.args, emit.alone(call.tensor("q"))
    rank, keepdim = len(x.shape), bool(args["keepdim"])
    axes = reduced_axes(args["dims"], rank)
    made = pooling.mean(
        emit.isa,
        x.physical_shape,
        tuple(sorted(x.order.index(a) for a in axes)),
        requantize,
        keepdim,
        emit.threads,
    )
    expr = emit.kernel(made, [x.expr], nodes=call.nodes)
    x = replace(x, dtype=call.result.dtype)
    if keepdim:
        return replace(
            x, expr=expr, shape=tuple(1 if a in axes else s for a, s in enumerate(x.shape))
        )
    kept = [a for a in range(rank) if a not in axes]
    order = tuple(kept.index(a) for a in x.order if a not in axes)
    return Value(expr, tuple(x.shape[a] for a in kept), x.dtype, order)


RULES: dict[object, KernelRule] = {
    qpc_ops.sum.default: KernelRule(_sum, Traits()),
    qpc_ops.mean.default: KernelRule(_mean, Traits()),
    qpc_ops.sum_float.default: KernelRule(_sum, Traits()),
    qpc_ops.mean_float.default: KernelRule(_mean, Traits()),
}
