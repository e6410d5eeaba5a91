"""Arithmetic of two tensors of floats, or of a tensor and a number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax

from qpc.backends.tvm.lowering.floats.extremes import larger, smaller
from qpc.backends.tvm.lowering.floats.logic import of_truths
from qpc.backends.tvm.lowering.floats.rule import (
    IMPORTED,
    Arguments,
    FloatRule,
    Rule,
    dtype_of,
    is_float,
    like,
)
from qpc.calls import aten


def _power(args: Arguments) -> relax.Expr:
    # TVM warns on standard error about other forms of small powers.
    x, exponent = args["self"], args["exponent"]
    if exponent in (0.5, -0.5) and is_float(x):  # NaN of minus infinity, as powers are not
        return relax.op.sqrt(x) if exponent > 0 else relax.op.rsqrt(x)
    if exponent in (2, 3, 4):
        square = relax.op.multiply(x, x)
        factors = {2: (x, x), 3: (square, x), 4: (square, square)}
        return relax.op.multiply(*factors[int(exponent)])
    return relax.op.power(x, like(exponent, x))


def _remainder(args: Arguments) -> relax.Expr | None:
    """A - floor(a / b) * b: has the sign of b."""
    a, b = args["self"], args["other"]
    b = like(b, a) if isinstance(b, int | float) else b
    if not is_float(a) or not is_float(b):
        return relax.op.floor_mod(a, b) if str(dtype_of(a)) == str(dtype_of(b)) else None
    whole = relax.op.floor(relax.op.divide(a, b))
    return relax.op.subtract(a, relax.op.multiply(whole, b))


def _truncated_rest(args: Arguments) -> relax.Expr | None:
    """A - trunc(a / b) * b, exactly: has the sign of a."""
    a, b = args["self"], args["other"]
    b = like(b, a) if isinstance(b, int | float) else b
    return relax.op.mod(a, b) if dtype_of(a) == dtype_of(b) else None


def _quotient(args: Arguments) -> relax.Expr | None:
    """That of integers is a float; the importer knows the others."""
    a, b = args["self"], args["other"]
    if is_float(a) or isinstance(b, complex):
        return None
    a = relax.op.astype(a, "float32")
    if isinstance(b, int | float):
        return relax.op.divide(a, relax.const(b, "float32"))
    return None if is_float(b) else relax.op.divide(a, relax.op.astype(b, "float32"))


def _reversed_difference(args: Arguments) -> relax.Expr | None:
    # TVM's importer gives the number a type of its own.
    x, other = args["self"], args["other"]
    if args["alpha"] != 1 or not (is_float(x) or isinstance(other, int)):
        return None
    return relax.op.subtract(like(other, x), x)


def _rounded_division(args: Arguments) -> relax.Expr | None:
    a, b = args["self"], args["other"]
    b = like(b, a) if isinstance(b, int | float) else b
    if not is_float(a) or not is_float(b):
        whole = {"floor": relax.op.floor_divide, "trunc": relax.op.divide}
        made = whole.get(args["rounding_mode"]) if dtype_of(a) == dtype_of(b) else None
        return made and made(a, b)
    rounding = {"floor": relax.op.floor, "trunc": relax.op.trunc, None: None}[args["rounding_mode"]]
    quotient = relax.op.divide(a, b)
    return quotient if rounding is None else rounding(quotient)


def _of_two(operator: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Rule:
    def rule(args: Arguments) -> relax.Expr | None:
        a, b = args["self"], args["other"]
        return operator(a, b) if dtype_of(a) == dtype_of(b) else None

    return rule


def _shifted(operator: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Rule:
    """By a number, of integers that have a sign: their sign is shifted in from the left."""

    def rule(args: Arguments) -> relax.Expr | None:
        x, bits = args["self"], args["other"]
        fits = isinstance(bits, int) and 0 <= bits < np.dtype(dtype_of(x)).itemsize * 8
        return operator(x, like(bits, x)) if fits else None

    return rule


RULES: dict[object, FloatRule] = {
    aten.add.Tensor: FloatRule(truths=of_truths(relax.op.logical_or), importer=True),
    aten.mul.Tensor: FloatRule(truths=of_truths(relax.op.logical_and), importer=True),
    aten.maximum.default: FloatRule(_of_two(larger), truths=of_truths(relax.op.logical_or)),
    aten.minimum.default: FloatRule(_of_two(smaller), truths=of_truths(relax.op.logical_and)),
    aten.pow.Tensor_Scalar: FloatRule(_power),
    aten.pow.Scalar: FloatRule(
        lambda args: relax.op.power(like(args["self"], args["exponent"]), args["exponent"])
    ),
    aten.rsub.Scalar: FloatRule(_reversed_difference),
    aten.remainder.Scalar: FloatRule(_remainder),
    aten.remainder.Tensor: FloatRule(_remainder),
    aten.div.Tensor: FloatRule(_quotient, importer=True),
    aten.div.Scalar: FloatRule(_quotient, importer=True),
    aten.__lshift__.Scalar: FloatRule(_shifted(relax.op.left_shift)),
    aten.__rshift__.Scalar: FloatRule(_shifted(relax.op.right_shift)),
    aten.div.Tensor_mode: FloatRule(_rounded_division),
    aten.div.Scalar_mode: FloatRule(_rounded_division),
    aten.fmod.Scalar: FloatRule(_truncated_rest),
    aten.fmod.Tensor: FloatRule(_truncated_rest),
    **dict.fromkeys(
        (
            aten.add.Scalar,
            aten.sub.Tensor,
            aten.sub.Scalar,
            aten.mul.Scalar,
            aten.pow.Tensor_Tensor,
        ),
        IMPORTED,
    ),
}
