"""Normalization of floats, and softmax."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tvm import relax

from qpc.backends.tvm.lowering.floats.rule import IMPORTED, Arguments, FloatRule, Rule, dtype_of
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
    aten.instance_norm.default: FloatRule(_instance_norm),
    aten.layer_norm.default: FloatRule(_layer_norm),
    aten.group_norm.default: FloatRule(_group_norm),
    aten.softmax.int: FloatRule(_softmax(relax.op.nn.softmax)),
    aten.log_softmax.int: FloatRule(_softmax(relax.op.nn.log_softmax)),
    **dict.fromkeys(
        (
            aten._softmax.default,
            aten._log_softmax.default,
        ),
        IMPORTED,
    ),
}
