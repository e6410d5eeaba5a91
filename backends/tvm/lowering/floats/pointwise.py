"""Functions of one float."""

from __future__ import annotations

from math import prod

from tvm import relax

from qpc.backends.tvm.kernels.floats.pointwise import PointwiseDesc, pointwise
from qpc.backends.tvm.lowering.floats.call import FloatCall
from qpc.backends.tvm.lowering.floats.extremes import clamped
from qpc.backends.tvm.lowering.floats.rule import (
    IMPORTED,
    Arguments,
    FloatRule,
    KernelWriter,
    Rule,
    dtype_of,
    like,
    shape_of,
)
from qpc.calls import aten
from qpc.types import dtype_name


def _hardsigmoid(args: Arguments) -> relax.Expr:
    x = args["self"]
    return relax.op.divide(clamped(relax.op.add(x, like(3, x)), 0, 6, of=x), like(6, x))


def _elu(args: Arguments) -> relax.Expr:
    # TVM's importer does not look at the two scales, which make SELU of it.
    x = args["self"]
    inside = relax.op.multiply(clamped(x, None, 0), like(args["input_scale"], x))
    falling = relax.op.subtract(relax.op.exp(inside), like(1, x))
    low = relax.op.multiply(falling, like(args["alpha"] * args["scale"], x))
    return relax.op.add(relax.op.multiply(clamped(x, 0, None), like(args["scale"], x)), low)


def _by_name(function: str) -> Rule:
    return lambda args: getattr(relax.op, function)(args["self"])


def _kernel(function: str) -> KernelWriter:
    return lambda call: _by_kernel(call, function)


def _kernel_of_vectors(function: str) -> KernelWriter:
    """A kernel where there are vectors; the library of C computes one after the other as well."""
    return lambda call: _by_kernel(call, function) if call.isa.lanes > 1 else None


def _by_kernel(call: FloatCall, function: str, *numbers: float) -> relax.Expr | None:
    if not call.are_floats("self"):
        return None
    shape = shape_of(call.args["self"])
    desc = PointwiseDesc(function, prod(shape), numbers)
    return call.kernel(pointwise(call.isa, desc, call.threads), [call.args["self"]], shape)


def _gelu_kernel(call: FloatCall) -> relax.Expr | None:
    return _by_kernel(call, "gelu_tanh" if call.args["approximate"] == "tanh" else "gelu")


def _elu_kernel(call: FloatCall) -> relax.Expr | None:
    alpha, scale, slope = (call.args[name] for name in ("alpha", "scale", "input_scale"))
    if not alpha * scale:  # 0 times an infinity
        return None
    return _by_kernel(call, "elu", scale, alpha * scale, slope)


def _softplus_kernel(call: FloatCall) -> relax.Expr | None:
    beta, threshold = float(call.args["beta"]), float(call.args["threshold"])
    return _by_kernel(call, "softplus", beta, threshold) if beta else None


def _prelu(args: Arguments) -> relax.Expr:
    x, slope = args["self"], args["weight"]
    axes = max(x.ty.ndim, 1)
    slopes = [int(slope.ty.shape[0]), *(1,) * (axes - 2)] if slope.ty.ndim else []
    falling = relax.op.multiply(x, relax.op.reshape(slope, slopes))
    return relax.op.where(relax.op.greater(x, like(0, x)), x, falling)


def _filled(args: Arguments, value: float | None = None) -> relax.Expr:
    """A tensor of one number, which may be none: TVM's own way to fill does without these."""
    x, dtype = args["self"], args["dtype"]
    kind = dtype_of(x) if dtype is None else dtype_name(dtype)
    number = args["fill_value"] if value is None else value
    return relax.op.broadcast_to(relax.const(number, kind), shape_of(x))


def _arc_tangent_of_two(args: Arguments) -> relax.Expr | None:
    a, b = args["self"], args["other"]
    return relax.op.atan2(a, b) if dtype_of(a) == dtype_of(b) else None


RULES: dict[object, FloatRule] = {
    **{
        getattr(aten, name).default: FloatRule(_by_name(name))
        for name in ("acos", "acosh", "asin", "asinh", "atan", "atanh", "sinh")
    },
    aten.full_like.default: FloatRule(_filled),
    aten.ones_like.default: FloatRule(lambda args: _filled(args, 1)),
    aten.zeros_like.default: FloatRule(lambda args: _filled(args, 0)),
    aten.atan2.default: FloatRule(_arc_tangent_of_two),
    aten.hardsigmoid.default: FloatRule(_hardsigmoid),
    aten.elu.default: FloatRule(_elu, _elu_kernel),
    aten.prelu.default: FloatRule(_prelu),
    aten.softplus.default: FloatRule(kernel=_softplus_kernel, importer=True),
    aten.mish.default: FloatRule(kernel=_kernel("mish")),
    aten.gelu.default: FloatRule(kernel=_gelu_kernel, importer=True),
    aten.cos.default: FloatRule(kernel=_kernel_of_vectors("cos"), importer=True),
    aten.sin.default: FloatRule(kernel=_kernel_of_vectors("sin"), importer=True),
    **{
        operator: FloatRule(kernel=_kernel(function), importer=True)
        for operator, function in (
            (aten.erf.default, "erf"),
            (aten.exp.default, "exp"),
            (aten.expm1.default, "expm1"),
            (aten.log.default, "log"),
            (aten.log1p.default, "log1p"),
            (aten.sigmoid.default, "sigmoid"),
            (aten.silu.default, "silu"),
            (aten.tanh.default, "tanh"),
        )
    },
    **dict.fromkeys(
        (
            aten._to_copy.default,
            aten.abs.default,
            aten.ceil.default,
            aten.floor.default,
            aten.hardswish.default,
            aten.leaky_relu.default,
            aten.neg.default,
            aten.reciprocal.default,
            aten.round.default,
            aten.rsqrt.default,
            aten.sign.default,
            aten.sqrt.default,
            aten.square.default,
            aten.tan.default,
            aten.trunc.default,
        ),
        IMPORTED,
    ),
}
