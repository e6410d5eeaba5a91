"""Convolutions of floats."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax

from qpc.backends.tvm.lowering.floats.rule import (
    IMPORTED,
    Arguments,
    FloatRule,
    Rule,
    dtype_of,
    per_axis,
)
from qpc.calls import aten


def _conv(call: Callable[..., relax.Expr]) -> Rule:
    """A convolution in the type of its input; TVM's importer makes float32 of all."""

    def rule(args: Arguments) -> relax.Expr | None:
        x = args["input"]
        if x.ty.ndim != args["weight"].ty.ndim:
            return None
        named = {}
        if "output_padding" in args:
            named["output_padding"] = per_axis(args["output_padding"], x)
        made = call(
            x,
            args["weight"],
            strides=per_axis(args["stride"], x),
            padding=per_axis(args["padding"], x),
            dilation=per_axis(args["dilation"], x),
            groups=args["groups"],
            out_dtype=dtype_of(x),
            **named,
        )
        if args["bias"] is None:
            return made
        channels = (int(args["bias"].ty.shape[0]), *(1,) * (x.ty.ndim - 2))
        return relax.op.add(made, relax.op.reshape(args["bias"], channels))

    return rule


RULES: dict[object, FloatRule] = {
    aten.conv1d.default: FloatRule(_conv(relax.op.nn.conv1d)),
    aten.conv2d.default: FloatRule(_conv(relax.op.nn.conv2d)),
    aten.conv3d.default: FloatRule(_conv(relax.op.nn.conv3d)),
    aten.conv_transpose1d.default: FloatRule(_conv(relax.op.nn.conv1d_transpose)),
    aten.conv_transpose2d.input: FloatRule(_conv(relax.op.nn.conv2d_transpose)),
    aten.conv_transpose3d.input: FloatRule(_conv(relax.op.nn.conv3d_transpose)),
    aten.convolution.default: IMPORTED,
}
