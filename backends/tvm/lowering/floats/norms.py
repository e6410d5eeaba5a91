"""Normalization of floats, and softmax."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import torch
from tvm import relax

from qpc.backends.tvm.kernels.floats.rows import NormDesc, SoftmaxDesc, norm, softmax
from qpc.backends.tvm.lowering.floats.call import FloatCall
from qpc.backends.tvm.lowering.floats.rule import (
    Arguments,
    FloatRule,
    KernelWriter,
    Rule,
    dtype_of,
    shape_of,
)
from qpc.calls import aten
from qpc.types import dtype_name


def _batch_norm(args: Arguments) -> relax.Expr | None:
    x, weight, bias = args["input"], args["weight"], args["bias"]
    if args["training"]:
        return None
    dtype = str(x.ty.dtype.dtype)
    per_channel = (int(x.ty.shape[1]), *(1,) * (x.ty.ndim - 2))
    mean, variance = args["running_mean"], args["running_var"]
    scale = relax.op.rsqrt(relax.op.add(variance, relax.const(args["eps"], dtype)))
    scale = scale if weight is None else relax.op.multiply(scale, weight)
    centred = relax.op.subtract(x, relax.op.reshape(mean, per_channel))
    result = relax.op.multiply(centred, relax.op.reshape(scale, per_channel))
    return result if bias is None else relax.op.add(result, relax.op.reshape(bias, per_channel))


def _instance_norm(args: Arguments) -> relax.Expr | None:
    """One group per channel."""
    x = args["input"]
    if not args["use_input_stats"]:
        return None
    channels = int(x.ty.shape[1])
    return _normalized_groups(x, channels, args["weight"], args["bias"], args["eps"])


def _layer_norm(args: Arguments) -> relax.Expr | None:
    x, sizes = args["input"], list(args["normalized_shape"])
    if dtype_of(x) not in ("float32", "float16"):
        return None
    weight, bias = args["weight"], args["bias"]
    weight = relax.op.ones(sizes, dtype_of(x)) if weight is None else weight
    bias = relax.op.zeros(sizes, dtype_of(x)) if bias is None else bias
    axes = [d - len(sizes) for d in range(len(sizes))]
    return relax.op.nn.layer_norm(x, weight, bias, axes=axes, epsilon=args["eps"])


def _group_norm(args: Arguments) -> relax.Expr | None:
    x = args["input"]
    if dtype_of(x) not in ("float32", "float16"):
        return None
    return _normalized_groups(x, args["num_groups"], args["weight"], args["bias"], args["eps"])


def _normalized_groups(
    x: relax.Expr,
    groups: int,
    weight: relax.Expr | None,
    bias: relax.Expr | None,
    epsilon: float,
) -> relax.Expr:
    """Layer norms of the groups of channels, then weight and bias of each channel.

    TVM's own group norm takes the variance from the sum of squares: where the mean is a thousand
    deviations, nothing of it is left in float32.
    """
    sizes = [int(size) for size in x.ty.shape]
    members = prod(sizes[1:]) // groups
    ones, zeros = relax.op.ones([members], dtype_of(x)), relax.op.zeros([members], dtype_of(x))
    apart = relax.op.reshape(x, [sizes[0], groups, members])
    result = relax.op.nn.layer_norm(apart, ones, zeros, axes=[-1], epsilon=epsilon)
    result = relax.op.reshape(result, sizes)
    per_channel = (sizes[1], *(1,) * (len(sizes) - 2))
    if weight is not None:
        result = relax.op.multiply(result, relax.op.reshape(weight, per_channel))
    return result if bias is None else relax.op.add(result, relax.op.reshape(bias, per_channel))


# --- kernels --------------------------------------------------------------------------------------


def _layer_norm_kernel(call: FloatCall) -> relax.Expr | None:
    sizes = [int(size) for size in call.args["normalized_shape"]]
    return _by_rows(call, prod(sizes), call.args["eps"])


def _rms_norm_kernel(call: FloatCall) -> relax.Expr | None:
    sizes, epsilon = [int(size) for size in call.args["normalized_shape"]], call.args["eps"]
    epsilon = float(np.finfo(np.float32).eps) if epsilon is None else epsilon
    return _by_rows(call, prod(sizes), epsilon, centred=False)


def _by_rows(
    call: FloatCall, size: int, epsilon: float, *, centred: bool = True
) -> relax.Expr | None:
    weight, bias = call.args["weight"], call.args.get("bias")
    shape = shape_of(call.args["input"])
    if not call.are_floats("input", *("weight", "bias")[: 1 + ("bias" in call.args)]):
        return None
    desc = NormDesc(
        prod(shape) // size, size, epsilon, centred, weight is not None, bias is not None
    )
    return _normalized(call, desc, [weight, bias])


def _group_norm_kernel(call: FloatCall) -> relax.Expr | None:
    return _by_groups(call, call.args["num_groups"])


def _instance_norm_kernel(call: FloatCall) -> relax.Expr | None:
    return _by_groups(call, shape_of(call.args["input"])[1]) if _of_inputs(call) else None


def _of_inputs(call: FloatCall) -> bool:
    return bool(call.args["use_input_stats"])


def _by_groups(call: FloatCall, groups: int) -> relax.Expr | None:
    weight, bias, shape = call.args["weight"], call.args["bias"], shape_of(call.args["input"])
    if not call.are_floats("input", "weight", "bias"):
        return None
    channels, members = shape[1], prod(shape[1:]) // groups
    desc = NormDesc(
        shape[0] * groups,
        members,
        call.args["eps"],
        weight=weight is not None,
        bias=bias is not None,
        channels=channels,
        in_row=channels // groups,
    )
    return _normalized(call, desc, [weight, bias])


def _normalized(call: FloatCall, desc: NormDesc, affine: list[relax.Expr | None]) -> relax.Expr:
    x = call.args["input"]
    given = [x, *(numbers for numbers in affine if numbers is not None)]
    return call.kernel(norm(call.isa, desc, call.threads), given, shape_of(x))


def _softmax_kernel(*, logarithm: bool = False) -> KernelWriter:
    def rule(call: FloatCall) -> relax.Expr | None:
        if not call.are_floats("self") or call.args.get("dtype") not in (None, torch.float32):
            return None
        shape = shape_of(call.args["self"])
        axis = call.args["dim"] % max(len(shape), 1)
        outer, size, inner = (
            prod(shape[:axis]),
            prod(shape[axis : axis + 1]),
            prod(shape[axis + 1 :]),
        )
        desc = SoftmaxDesc(outer, size, inner, logarithm)
        return call.kernel(softmax(call.isa, desc, call.threads), [call.args["self"]], shape)

    return rule


def _softmax(operator: Callable[..., relax.Expr]) -> Rule:
    def rule(args: Arguments) -> relax.Expr:
        x = args["self"]
        wanted = args["dtype"]
        if wanted is not None:
            x = relax.op.astype(x, dtype_name(wanted))
        return operator(x, axis=args["dim"])

    return rule


RULES: dict[object, FloatRule] = {
    aten.batch_norm.default: FloatRule(_batch_norm),
    aten.instance_norm.default: FloatRule(_instance_norm, _instance_norm_kernel),
    aten.layer_norm.default: FloatRule(_layer_norm, _layer_norm_kernel),
    aten.group_norm.default: FloatRule(_group_norm, _group_norm_kernel),
    aten.rms_norm.default: FloatRule(kernel=_rms_norm_kernel),
    aten.softmax.int: FloatRule(_softmax(relax.op.nn.softmax), _softmax_kernel()),
    aten.log_softmax.int: FloatRule(
        _softmax(relax.op.nn.log_softmax), _softmax_kernel(logarithm=True)
    ),
    aten._softmax.default: FloatRule(kernel=_softmax_kernel(), importer=True),
    aten._log_softmax.default: FloatRule(kernel=_softmax_kernel(logarithm=True), importer=True),
}
