"""Resizing of images of integers."""

from __future__ import annotations

from qpc.backends.common.traits import MemoryOrder, Traits
from qpc.backends.tvm.kernels import resize
from qpc.backends.tvm.lowering.call import Call, KernelRule, emitted
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.layout import Slice, Value
from qpc.calls import qpc_ops


def _resize2d(emit: Emitter, call: Call) -> Value | Slice:
    x = emit.images(call.tensor("q"))
    rows, columns = (call.args[k].numpy() for k in ("rows", "columns"))
    made = resize.resize2d(emit.isa, x.view, rows, columns, emit.threads, call.share)
    n, c, _, _ = x.shape
    return emitted(emit, call, made, [x], (n, c, len(rows), len(columns)))


RULES: dict[object, KernelRule] = {
    qpc_ops.resize2d.default: KernelRule(
        _resize2d,
        Traits(order=MemoryOrder.IMAGES, in_place=True, constants=("rows", "columns")),
    ),
}
