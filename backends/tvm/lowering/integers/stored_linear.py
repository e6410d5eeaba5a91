"""Matrix products of floats with integer weights."""

from __future__ import annotations

from math import prod

import torch

from qpc.backends.common.orders import identity
from qpc.backends.common.traits import MemoryOrder, Traits
from qpc.backends.tvm.kernels.kernel import Kernel
from qpc.backends.tvm.kernels.stored.dynamic import DynamicDesc, dynamic
from qpc.backends.tvm.kernels.stored.weight_only import WeightOnlyDesc, weight_only
from qpc.backends.tvm.lowering.call import Call, KernelRule
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.layout import Value
from qpc.calls import qpc_ops
from qpc.errors import BackendError
from qpc.quant.stored_weights import stored_integers


def _weight_only(emit: Emitter, call: Call) -> Value:
    args, x = call.args, call.args["input"]
    _require_some(call, x)
    rows, k, bias = prod(x.shape[:-1]), x.shape[-1], args["bias"]
    packed = args["weight"].dtype is torch.uint8
    group = min(args["group"], k)
    desc = WeightOnlyDesc(rows, k, call.shape[-1], group, packed, bias is not None)
    weight = stored_integers(args["weight"], k).numpy()
    given = args["scale"].numpy(), None if bias is None else bias.numpy()
    return _emitted(emit, call, weight_only(emit.isa, desc, weight, *given, emit.threads))


def _dynamic(emit: Emitter, call: Call) -> Value:
    args, x = call.args, call.args["input"]
    _require_some(call, x)
    bias = args["bias"]
    desc = DynamicDesc(prod(x.shape[:-1]), x.shape[-1], call.shape[-1], bias is not None)
    given = (args["weight"].numpy(), args["scale"].numpy(), None if bias is None else bias.numpy())
    return _emitted(emit, call, dynamic(emit.isa, desc, *given, emit.threads))


def _require_some(call: Call, x: Value) -> None:
    if 0 in (*x.shape, *call.shape):
        raise BackendError(
            f"a layer from {list(x.shape)} to {list(call.shape)} has nothing to compute",
            node=call.node,
            fix="leave it out of the model, or use the reference backend",
        )


def _emitted(emit: Emitter, call: Call, kernel: Kernel) -> Value:
    x = emit.logical(call.args["input"])
    made = emit.kernel(kernel, [emit.view(x, kernel.inputs[0].shape)], nodes=call.nodes)
    expr = emit.view(made, call.shape)
    return Value(expr, call.shape, torch.float32, identity(len(call.shape)))


_TRAITS = Traits(order=MemoryOrder.LOGICAL, constants=("weight", "scale", "bias"))

RULES: dict[object, KernelRule] = {
    qpc_ops.weight_only_linear.default: KernelRule(_weight_only, _TRAITS),
    qpc_ops.dynamic_linear.default: KernelRule(_dynamic, _TRAITS),
}
"""Kernels of layers whose values stay float."""
