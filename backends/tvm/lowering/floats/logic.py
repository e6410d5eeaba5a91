"""What kind of number a value is, comparisons, choices, and arithmetic of truth values.

LLVM has no comparison, sum or product of truth values by the names that TVM asks for.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax

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

_BOOL = "bool"


def _is_nan(args: Arguments) -> relax.Expr:
    x = args["self"]
    return relax.op.isnan(x) if is_float(x) else relax.op.not_equal(x, x)


def _is_finite(args: Arguments) -> relax.Expr:
    x = args["self"]
    if not is_float(x):
        return relax.op.full_like(x, relax.const(1, _BOOL), dtype=_BOOL)
    return relax.op.less(relax.op.abs(x), like(float("inf"), x))


def _is_infinite(args: Arguments) -> relax.Expr:
    x = args["self"]
    if not is_float(x):
        return relax.op.full_like(x, relax.const(0, _BOOL), dtype=_BOOL)
    return relax.op.equal(relax.op.abs(x), like(float("inf"), x))


def _differ(a: relax.Expr, b: relax.Expr) -> relax.Expr:
    either, both = relax.op.logical_or(a, b), relax.op.logical_and(a, b)
    return relax.op.logical_and(either, relax.op.logical_not(both))


def _same(a: relax.Expr, b: relax.Expr) -> relax.Expr:
    return relax.op.logical_not(_differ(a, b))


def of_truths(operator: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Rule:
    """Of two tensors of truth values; others are not covered."""

    def rule(args: Arguments) -> relax.Expr | None:
        a, b = args["self"], args["other"]
        b = relax.const(b, _BOOL) if isinstance(b, bool) else b
        if isinstance(b, int | float) and dtype_of(a) == _BOOL and b in (0, 1):
            b = relax.const(bool(b), _BOOL)
        if isinstance(b, int | float) or (dtype_of(a), dtype_of(b)) != (_BOOL, _BOOL):
            return None
        return operator(a, b)

    return rule


def _exclusive_or(args: Arguments) -> relax.Expr:
    return _differ(_truth(args["self"]), _truth(args["other"]))


def _truth(x: relax.Expr) -> relax.Expr:
    """Whether values differ from zero, as NaN does."""
    return x if dtype_of(x) == _BOOL else relax.op.not_equal(x, like(0, x))


def _where(args: Arguments) -> relax.Expr | None:
    # TVM's importer gives a number next to a tensor a type of its own.
    a, b = args["self"], args["other"]
    if isinstance(a, int | float) and isinstance(b, int | float):
        return None
    a = like(a, b) if isinstance(a, int | float) else a
    b = like(b, a) if isinstance(b, int | float) else b
    if dtype_of(a) != dtype_of(b):  # the one without axes adapts
        if a.ty.ndim and b.ty.ndim:
            return None
        a = a if a.ty.ndim else relax.op.astype(a, dtype_of(b))
        b = relax.op.astype(b, dtype_of(a))
    return relax.op.where(args["condition"], a, b)


def _filled(args: Arguments) -> relax.Expr:
    # TVM's importer makes a tensor of the value, and fails where it is infinite or no number.
    x = args["self"]
    return relax.op.where(args["mask"], like(args["value"], x), x)


RULES: dict[object, FloatRule] = {
    aten.isnan.default: FloatRule(_is_nan),
    aten.isfinite.default: FloatRule(_is_finite),
    aten.isinf.default: FloatRule(_is_infinite),
    aten.logical_xor.default: FloatRule(_exclusive_or),
    aten.bitwise_xor.Tensor: FloatRule(truths=of_truths(_differ)),
    aten.masked_fill.Scalar: FloatRule(_filled),
    aten.ne.Tensor: FloatRule(truths=of_truths(_differ), importer=True),
    aten.ne.Scalar: FloatRule(truths=of_truths(_differ), importer=True),
    aten.eq.Tensor: FloatRule(truths=of_truths(_same), importer=True),
    aten.eq.Scalar: FloatRule(truths=of_truths(_same), importer=True),
    aten.where.self: FloatRule(_where),
    aten.where.ScalarOther: FloatRule(_where),
    aten.where.ScalarSelf: FloatRule(_where),
    **dict.fromkeys(
        (
            aten.ge.Tensor,
            aten.ge.Scalar,
            aten.gt.Tensor,
            aten.gt.Scalar,
            aten.le.Tensor,
            aten.le.Scalar,
            aten.lt.Tensor,
            aten.lt.Scalar,
            aten.logical_and.default,
            aten.logical_not.default,
            aten.logical_or.default,
            aten.bitwise_and.Tensor,
            aten.bitwise_not.default,
            aten.bitwise_or.Tensor,
        ),
        IMPORTED,
    ),
}
