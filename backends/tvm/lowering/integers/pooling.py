"""Pooling of integers."""

from __future__ import annotations

from dataclasses import replace

from qpc.backends.common.traits import MemoryOrder, Traits
from qpc.backends.tvm.kernels import pooling
from qpc.backends.tvm.kernels.epilogue import Requantize
from qpc.backends.tvm.lowering.call import (
    Arguments,
    Call,
    KernelRule,
    Shape,
    average_of,
    emitted,
    grid_arguments,
    pair,
)
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.layout import Slice, Value
from qpc.calls import qpc_ops
from qpc.ops.counted_pooling import count_multipliers


def _max_pool2d(emit: Emitter, call: Call) -> Value | Slice:
    window = _window(call.args, dilation=pair(call.args["dilation"]))
    window = replace(window, ceil_mode=bool(call.args["ceil_mode"]))
    x = emit.images(call.tensor("q"))
    made = pooling.max_pool2d(emit.isa, x.view, window, emit.threads, call.share)
    return emitted(emit, call, made, [x], _resized(x, window))


def _avg_pool2d(emit: Emitter, call: Call) -> Value | Slice:
    x = emit.images(call.tensor("q"))
    window, requantize = _window(call.args), average_of(call.args, call.args["multiplier"])
    made = pooling.avg_pool2d(emit.isa, x.view, window, requantize, emit.threads, call.share)
    return emitted(emit, call, made, [x], _resized(x, window))


def _counted_avg_pool2d(emit: Emitter, call: Call) -> Value | Slice:
    args, x = call.args, emit.images(call.tensor("q"))
    window = replace(_window(args), ceil_mode=bool(args["ceil_mode"]))
    scales = (args["input_scale"], args["output_scale"])
    made = pooling.counted_avg_pool2d(
        emit.isa,
        x.view,
        window,
        Requantize(multiplier=0.0, **grid_arguments(args, "input_zero_point")),
        count_multipliers(window.kernel, *scales),
        count_padding=bool(args["count_include_pad"]),
        threads=emit.threads,
        share=call.share,
    )
    return emitted(emit, call, made, [x], _resized(x, window))


def _resized(x: Value | Slice, window: pooling.PoolWindow) -> Shape:
    n, c, h, w = x.shape
    return (n, c, window.output_size(h, 0), window.output_size(w, 1))


def _window(args: Arguments, dilation: tuple[int, int] = (1, 1)) -> pooling.PoolWindow:
    kernel = pair(args["kernel_size"])
    top, left = pair(args["padding"])
    stride = pair(args["stride"]) if args["stride"] else kernel
    return pooling.PoolWindow(kernel, stride, (top, left, top, left), dilation)


RULES: dict[object, KernelRule] = {
    qpc_ops.max_pool2d.default: KernelRule(
        _max_pool2d, Traits(order=MemoryOrder.IMAGES, in_place=True)
    ),
    qpc_ops.avg_pool2d.default: KernelRule(
        _avg_pool2d, Traits(order=MemoryOrder.IMAGES, in_place=True)
    ),
    qpc_ops.counted_avg_pool2d.default: KernelRule(
        _counted_avg_pool2d, Traits(order=MemoryOrder.IMAGES, in_place=True)
    ),
    qpc_ops.avg_pool2d_float.default: KernelRule(
        _avg_pool2d, Traits(order=MemoryOrder.IMAGES, in_place=True)
    ),
}
