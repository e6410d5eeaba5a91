"""Variances, from the deviations from the mean: of sums of squares, rounding leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tvm import relax

from qpc.backends.tvm.lowering.floats.rule import Arguments, FloatRule, Rule, is_float, like
from qpc.calls import aten


def _both(
    x: relax.Expr, dims: Any, correction: float, *, keepdim: bool
) -> tuple[relax.Expr, relax.Expr]:
    """Variance and mean over `dims`, or over all axes; NaN or infinite where nothing is left."""
    axes = [d % x.ty.ndim for d in dims or range(x.ty.ndim)]
    count = prod(int(x.ty.shape[axis]) for axis in axes)
    mean = relax.op.mean(x, axes, keepdims=True)
    apart = relax.op.subtract(x, mean)
    squares = relax.op.sum(relax.op.multiply(apart, apart), axes, keepdims=keepdim)
    variance = relax.op.divide(squares, like(max(count - correction, 0), x))
    return variance, mean if keepdim else relax.op.squeeze(mean, axes)


def _corrected(args: Arguments) -> tuple[Any, float]:
    correction = args["correction"]
    return args["dim"], 1 if correction is None else correction


def _unbiased(args: Arguments) -> tuple[Any, float]:
    return args.get("dim"), int(args["unbiased"])


def _rule(about: Callable[[Arguments], tuple[Any, float]], *, with_mean: bool) -> Rule:
    def rule(args: Arguments) -> relax.Expr | None:
        if not is_float(args["self"]):
            return None
        keepdim = bool(args.get("keepdim", False))
        variance, mean = _both(args["self"], *about(args), keepdim=keepdim)
        return relax.Tuple([variance, mean]) if with_mean else variance

    return rule


RULES: dict[object, FloatRule] = {
    aten.var.default: FloatRule(_rule(_unbiased, with_mean=False)),
    aten.var.dim: FloatRule(_rule(_unbiased, with_mean=False)),
    aten.var.correction: FloatRule(_rule(_corrected, with_mean=False)),
    aten.var_mean.default: FloatRule(_rule(_unbiased, with_mean=True)),
    aten.var_mean.dim: FloatRule(_rule(_unbiased, with_mean=True)),
    aten.var_mean.correction: FloatRule(_rule(_corrected, with_mean=True)),
}
