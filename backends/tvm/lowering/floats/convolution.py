"""Convolutions of floats."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from qpc.backends.tvm.lowering.floats.transposed import as_convolution, transposed_kernel
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


def _kernel(call: FloatCall) -> relax.Expr | None:
    """Of constant weights, over one or two axes: one axis is an image of height 1."""
    args, x = call.args, call.args["input"]
    weight, bias = call.tensors.get("weight"), call.tensors.get("bias")
    if weight is None or (bias is not None) != (args["bias"] is not None):
        return None
    if not call.are_floats("input", "weight", "bias") or x.ty.ndim != weight.ndim:
        return None
    axes = weight.ndim - 2
    n, channels, *size = shape_of(x)
    ones, missing = [1] * (2 - axes), [0] * (2 - axes)
    rows, columns = _pair([*missing, *per_axis(args["padding"], x)])
    desc = ConvDesc(
        n,
        channels,
        _pair([*ones, *size]),
        weight.shape[0],
        _pair([*ones, *weight.shape[2:]]),
        _pair([*ones, *per_axis(args["stride"], x)]),
        ((rows, rows), (columns, columns)),
        _pair([*ones, *per_axis(args["dilation"], x)]),
        args["groups"],
        bias is not None,
    )
    given = weight.detach().numpy(), None if bias is None else bias.detach().numpy()
    made = conv(call.isa, desc, *given, call.threads)
    return call.kernel(made, [x], (n, weight.shape[0], *desc.out[2 - axes :]))


def _pair(sizes: Sequence[int]) -> tuple[int, int]:
    first, second = map(int, sizes)
    return first, second


def _transposed(call: Callable[..., relax.Expr]) -> FloatRule:
    """A transposed convolution; TVM's own gets only those without dilation right."""
    plain = _conv(call)

    def rule(args: Arguments) -> relax.Expr | None:
        alone = all(step == 1 for step in per_axis(args["dilation"], args["input"]))
        return plain(args) if alone else None

    return FloatRule(rule, transposed_kernel, decomposition=as_convolution)


RULES: dict[object, FloatRule] = {
    aten.conv1d.default: FloatRule(_conv(relax.op.nn.conv1d), _kernel),
    aten.conv2d.default: FloatRule(_conv(relax.op.nn.conv2d), _kernel),
    aten.conv3d.default: FloatRule(_conv(relax.op.nn.conv3d)),
    aten.conv_transpose1d.default: _transposed(relax.op.nn.conv1d_transpose),
    aten.conv_transpose2d.input: _transposed(relax.op.nn.conv2d_transpose),
    aten.conv_transpose3d.input: _transposed(relax.op.nn.conv3d_transpose),
    aten.convolution.default: IMPORTED,
}
