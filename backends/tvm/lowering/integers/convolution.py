"""Convolutions of integers, with what follows them done before the result is stored."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from qpc.backends.common.fused_padding import Padding
from qpc.backends.common.orders import NHWC
from qpc.backends.common.traits import MemoryOrder, Traits
from qpc.backends.tvm.kernels.conv import transposed
from qpc.backends.tvm.kernels.conv.conv2d import conv2d
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.lowering.call import (
    Call,
    KernelRule,
    emitted,
    end_arguments,
    layer_constants,
    pair,
)
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.integers.epilogue import epilogue_of, joined_tensor
from qpc.backends.tvm.lowering.layout import Slice, Value
from qpc.calls import qpc_ops


def _conv2d(emit: Emitter, call: Call) -> Value | Slice:
    args = call.args
    x = emit.images(args["q"])
    n, c, h, w = x.shape
    o, _, *kernel = args["weight"].shape
    top, left = pair(args["padding"])
    desc = Conv2dDesc(
        n,
        h,
        w,
        c,
        o,
        (kernel[0], kernel[1]),
        stride=pair(args["stride"]),
        padding=_padding(call, (top, left, top, left)),
        dilation=pair(args["dilation"]),
        groups=args["groups"],
        source=x.view.share,
        dtype=emit.isa.activation,
        **end_arguments(args),
    )
    if call.share is not None:
        desc = desc.placed(call.share)
    epilogue, others = epilogue_of(emit, call, NHWC)
    desc, joined = _joined(emit, call, desc)
    made = conv2d(emit.isa, desc, layer_constants(call), epilogue, emit.threads, emit.tuner)
    return emitted(emit, call, made, [x, *joined, *others], (n, o, desc.oh, desc.ow))


_Desc = TypeVar("_Desc", Conv2dDesc, transposed.TransposedDesc)


def _joined(emit: Emitter, call: Call, desc: _Desc) -> tuple[_Desc, list[Value | Slice]]:
    """The description of a layer that knows where lies what joins its sums, and that tensor."""
    joined, moved = joined_tensor(emit, call, NHWC)
    if desc.join is not None:
        desc = replace(desc, join=replace(desc.join, moved=moved))
    return desc, joined


def _padding(call: Call, padding: Padding) -> Padding:
    """The padding of a convolution, with that of the operator that is fused into it."""
    top, left, bottom, right = (a + b for a, b in zip(padding, call.fused_padding, strict=True))
    return top, left, bottom, right


def _conv_transpose2d(emit: Emitter, call: Call) -> Value | Slice:
    args = call.args
    x = emit.images(args["q"])
    n, c, h, w = x.shape
    _, per_group, *kernel = args["weight"].shape
    desc = transposed.TransposedDesc(
        n,
        h,
        w,
        c,
        per_group * args["groups"],
        (kernel[0], kernel[1]),
        stride=pair(args["stride"]),
        padding=pair(args["padding"]),
        output_padding=pair(args["output_padding"]),
        dilation=pair(args["dilation"]),
        groups=args["groups"],
        source=x.view.share,
        dtype=emit.isa.activation,
        share=call.share,
        **end_arguments(args),
    )
    epilogue, others = epilogue_of(emit, call, NHWC)
    desc, joined = _joined(emit, call, desc)
    made = transposed.conv_transpose2d(
        emit.isa, desc, layer_constants(call), epilogue, emit.threads, emit.tuner
    )
    size = desc.axis(0).outputs, desc.axis(1).outputs
    return emitted(emit, call, made, [x, *joined, *others], (n, desc.o, *size))


_LAYER = Traits(
    order=MemoryOrder.IMAGES,
    in_place=True,
    epilogue=True,
    constants=("weight", "bias", "multiplier"),
)

RULES: dict[object, KernelRule] = {
    qpc_ops.conv2d.default: KernelRule(_conv2d, replace(_LAYER, pads_with="input_zero_point")),
    qpc_ops.conv_transpose2d.default: KernelRule(_conv_transpose2d, _LAYER),
    qpc_ops.conv2d_add.default: KernelRule(
        _conv2d, replace(_LAYER, pads_with="input_zero_point", joined="other")
    ),
    qpc_ops.conv_transpose2d_add.default: KernelRule(
        _conv_transpose2d, replace(_LAYER, joined="other")
    ),
    qpc_ops.conv2d_float.default: KernelRule(
        _conv2d, replace(_LAYER, epilogue=False, pads_with="input_zero_point")
    ),
    qpc_ops.conv_transpose2d_float.default: KernelRule(
        _conv_transpose2d, replace(_LAYER, epilogue=False)
    ),
}
