"""What kind of number a value is, and arithmetic of truth values, as PyTorch has them.

LLVM has no comparison, sum or product of truth values by the names that TVM asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax

from qpc.backends.tvm.lowering.relax_values import Rule, dtype_of, is_float, like
from qpc.calls import aten

_BOOL = "bool"


def _is_nan(args: Mapping[str, Any]) -> relax.Expr:
    x = args["self"]
    return relax.op.isnan(x) if is_float(x) else relax.op.not_equal(x, x)


def _is_finite(args: Mapping[str, Any]) -> relax.Expr:
    x = args["self"]
    if not is_float(x):
        return relax.op.full_like(x, relax.const(1, _BOOL), dtype=_BOOL)
    return relax.op.less(relax.op.abs(x), like(float("inf"), x))


def _is_infinite(args: Mapping[str, Any]) -> relax.Expr:
    x = args["self"]
    if not is_float(x):
        return relax.op.full_like(x, relax.const(0, _BOOL), dtype=_BOOL)
    return relax.op.equal(relax.op.abs(x), like(float("inf"), x))


def _differ(a: relax.Expr, b: relax.Expr) -> relax.Expr:
    either, both = relax.op.logical_or(a, b), relax.op.logical_and(a, b)
    return relax.op.logical_and(either, relax.op.logical_not(both))


def _same(a: relax.Expr, b: relax.Expr) -> relax.Expr:
    return relax.op.logical_not(_differ(a, b))


def _of_truths(operator: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Rule:
    """Of two tensors of truth values; others are not covered."""

    def rule(args: Mapping[str, Any]) -> relax.Expr | None:
        a, b = args["self"], args["other"]
        b = relax.const(b, _BOOL) if isinstance(b, bool) else b
        if isinstance(b, int | float) or (dtype_of(a), dtype_of(b)) != (_BOOL, _BOOL):
            return None
        return operator(a, b)

    return rule


def _exclusive_or(args: Mapping[str, Any]) -> relax.Expr:
    return _differ(_truth(args["self"]), _truth(args["other"]))


def _truth(x: relax.Expr) -> relax.Expr:
    """Whether values differ from zero, as NaN does."""
    return x if dtype_of(x) == _BOOL else relax.op.not_equal(x, like(0, x))


RULES: dict[Any, Rule] = {
    aten.isnan.default: _is_nan,
    aten.isfinite.default: _is_finite,
    aten.isinf.default: _is_infinite,
    aten.logical_xor.default: _exclusive_or,
}

OF_TRUTHS: dict[Any, Rule] = {
    aten.bitwise_xor.Tensor: _of_truths(_differ),
    aten.ne.Tensor: _of_truths(_differ),
    aten.ne.Scalar: _of_truths(_differ),
    aten.eq.Tensor: _of_truths(_same),
    aten.eq.Scalar: _of_truths(_same),
    aten.mul.Tensor: _of_truths(relax.op.logical_and),
    aten.add.Tensor: _of_truths(relax.op.logical_or),
    aten.maximum.default: _of_truths(relax.op.logical_or),
    aten.minimum.default: _of_truths(relax.op.logical_and),
}
"""What comes before other rules where all values are truth values."""
