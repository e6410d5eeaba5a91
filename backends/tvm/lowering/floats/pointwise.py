"""Functions of one float."""

from __future__ import annotations

from tvm import relax

from qpc.backends.tvm.lowering.floats.extremes import clamped
from qpc.backends.tvm.lowering.floats.rule import IMPORTED, Arguments, FloatRule, like
from qpc.calls import aten


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


RULES: dict[object, FloatRule] = {
    aten.hardsigmoid.default: FloatRule(_hardsigmoid),
    aten.elu.default: FloatRule(_elu),
    **dict.fromkeys(
        (
            aten._to_copy.default,
            aten.abs.default,
            aten.ceil.default,
            aten.cos.default,
            aten.erf.default,
            aten.exp.default,
            aten.expm1.default,
            aten.floor.default,
            aten.full_like.default,
            aten.gelu.default,
            aten.hardswish.default,
            aten.leaky_relu.default,
            aten.log.default,
            aten.log1p.default,
            aten.neg.default,
            aten.ones_like.default,
            aten.prelu.default,
            aten.reciprocal.default,
            aten.round.default,
            aten.rsqrt.default,
            aten.sigmoid.default,
            aten.sign.default,
            aten.silu.default,
            aten.sin.default,
            aten.softplus.default,
            aten.sqrt.default,
            aten.square.default,
            aten.tan.default,
            aten.tanh.default,
            aten.trunc.default,
            aten.zeros_like.default,
        ),
        IMPORTED,
    ),
}
