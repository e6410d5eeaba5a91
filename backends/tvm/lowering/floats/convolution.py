"""Convolutions of floats."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from tvm import relax

from qpc.backends.tvm.kernels.floats.conv import ConvDesc, conv
from qpc.backends.tvm.lowering.floats.call import FloatCall
from qpc.backends.tvm.lowering.floats.rule import (
    IMPORTED,
    Arguments,
    FloatRule,
    Rule,
    dtype_of,
    per_axis,
    shape_of,
)
from qpc.calls import aten


def _conv(call: Callable[..., relax.Expr]) -> Rule:
    """A convolution in the type of its input; TVM's importer makes float32 of all."""

    def rule(args: Arguments) -> relax.Expr | None:
        x = args["input"]
        if x.ty.ndim != args["weight"].ty.ndim:
            return None
        made = call(
            x,
            args["weight"],
            strides=per_axis(args["stride"], x),
            padding=per_axis(args["padding"], x),
            dilation=per_axis(args["dilation"], x),
            groups=args["groups"],
            out_dtype=dtype_of(x),
        )
        return made if args["bias"] is None else with_bias(made, args["bias"])

    return rule


def _kernel(call: FloatCall) -> relax.Expr | None:
    """By a kernel of our own, with constant weights or with computed ones."""
    args, x, weight = call.args, call.args["input"], call.args["weight"]
    if not call.are_floats("input", "weight", "bias") or x.ty.ndim != weight.ty.ndim:
        return None
    n, channels, *size = shape_of(x)
    outputs, _, *kernel = shape_of(weight)
    bias = call.tensors.get("bias")
    desc = ConvDesc(
        n,
        channels,
        tuple(size),
        outputs,
        tuple(kernel),
        tuple(per_axis(args["stride"], x)),
        tuple((size, size) for size in per_axis(args["padding"], x)),
        tuple(per_axis(args["dilation"], x)),
        args["groups"],
        bias is not None,
    )
    made = call_conv(call, desc, call.tensors.get("weight", weight), bias)
    computed = args["bias"] if bias is None else None
    if computed is None:
        return made
    return call.emit.builder.emit(with_bias(made, computed))


def call_conv(
    call: FloatCall, desc: ConvDesc, weight: Tensor | relax.Expr, bias: Tensor | None
) -> relax.Expr:
    """Call the kernel of a convolution of the call's input."""
    x = call.args["input"]
    constant = weight.detach().numpy() if isinstance(weight, Tensor) else None
    added = None if bias is None else bias.detach().numpy()
    made = conv(call.isa, desc, constant, added, call.threads)
    inputs = [x] if constant is not None else [x, weight]
    return call.kernel(made, inputs, (desc.n, desc.outputs, *desc.out))


def with_bias(made: relax.Expr, bias: relax.Expr) -> relax.Expr:
    """The results of a layer and what is added to each channel."""
    channels = (int(bias.ty.shape[0]), *(1,) * (made.ty.ndim - 2))
    return relax.op.add(made, relax.op.reshape(bias, channels))


RULES: dict[object, FloatRule] = {
    aten.conv1d.default: FloatRule(_conv(relax.op.nn.conv1d), _kernel),
    aten.conv2d.default: FloatRule(_conv(relax.op.nn.conv2d), _kernel),
    aten.conv3d.default: FloatRule(_conv(relax.op.nn.conv3d), _kernel),
    aten.convolution.default: IMPORTED,
}
