"""Clamping of integers."""

from __future__ import annotations

from qpc.backends.common.traits import MemoryOrder, StageKind, Traits
from qpc.backends.tvm.kernels import elementwise
from qpc.backends.tvm.kernels.geometry import View
from qpc.backends.tvm.kernels.kernel import Kernel
from qpc.backends.tvm.lowering.call import Call, KernelRule
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.integers.pointwise import unary
from qpc.backends.tvm.lowering.layout import Slice, Value
from qpc.calls import qpc_ops


def _clamp(emit: Emitter, call: Call) -> Value | Slice:
    lo, hi = call.args["lo"], call.args["hi"]

    def build(x: View) -> Kernel:
        return elementwise.clamp(emit.isa, x, lo, hi, emit.threads, call.share)

    return unary(emit, call, build)


RULES: dict[object, KernelRule] = {
    qpc_ops.clamp.default: KernelRule(
        _clamp, Traits(order=MemoryOrder.KEPT, in_place=True, stage=StageKind.CLAMP)
    ),
}
