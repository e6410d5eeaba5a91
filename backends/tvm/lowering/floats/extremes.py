"""Maxima, minima and what is made of them, as PyTorch has them: NaN stays NaN.

TVM's own select whatever a comparison with NaN leaves over, and begin with the least finite number,
which is more than minus infinity.
"""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from qpc.backends.tvm.lowering.floats.rule import is_float, like

# --- one value at a time --------------------------------------------------------------------------


def clamped(
    x: relax.Expr, least: float | None, greatest: float | None, *, of: relax.Expr | None = None
) -> relax.Expr:
    """A value that is neither less nor more stays, and so does NaN.

    of: a tensor of the type of `x`, if that is not known yet.
    """
    typed = x if of is None else of
    if least is not None:
        low = like(least, typed)
        x = relax.op.where(relax.op.less(x, low), low, x)
    if greatest is not None:
        high = like(greatest, typed)
        x = relax.op.where(relax.op.greater(x, high), high, x)
    return x


def larger(a: relax.Expr, b: relax.Expr) -> relax.Expr:
    """The maximum of two tensors; NaN if either is."""
    return _picked(relax.op.greater(a, b), a, b)


def smaller(a: relax.Expr, b: relax.Expr) -> relax.Expr:
    """The minimum of two tensors; NaN if either is."""
    return _picked(relax.op.less(a, b), a, b)


def _picked(first: relax.Expr, a: relax.Expr, b: relax.Expr) -> relax.Expr:
    if is_float(a):
        first = relax.op.logical_or(first, relax.op.isnan(a))
    return relax.op.where(first, a, b)


# --- many values ----------------------------------------------------------------------------------


def isnan(x: tirx.Expr, dtype: str) -> tirx.Expr:
    """Whether a value is NaN, of which integers have none."""
    return tirx.isnan(x) if "float" in dtype else tirx.const(False, "bool")


def worst(dtype: str, *, least: bool) -> tirx.Expr:
    """What any other value beats: infinity, where there is one."""
    if "float" not in dtype:
        return tirx.max_value(dtype) if least else tirx.min_value(dtype)
    infinity = tirx.infinity(dtype)
    return infinity if least else -infinity


def extreme_of(dtype: str, *, least: bool) -> Any:
    """A reduction to the greatest value, or to the least; to NaN if there is one."""

    def combine(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
        better = a < b if least else a > b
        return tirx.Select(tirx.Or(better, isnan(a, dtype)), a, b)

    return te.comm_reducer(combine, lambda _: worst(dtype, least=least))
