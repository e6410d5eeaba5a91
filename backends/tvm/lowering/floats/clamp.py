"""Clamps of floats, in which NaN stays NaN."""

from __future__ import annotations

from tvm import relax

from qpc.backends.tvm.lowering.floats.extremes import clamped, larger, smaller
from qpc.backends.tvm.lowering.floats.rule import Arguments, FloatRule, Rule, dtype_of, is_float
from qpc.calls import aten


def _clamp(lowest: str | float | None, highest: str | float | None) -> Rule:
    """Between numbers, or arguments of these names."""

    def rule(args: Arguments) -> relax.Expr | None:
        x = args["self"]
        bounds = [args[v] if isinstance(v, str) else v for v in (lowest, highest)]
        fits = is_float(x) or not any(isinstance(bound, float) for bound in bounds)
        return clamped(x, *bounds) if fits else None

    return rule


def _clamp_by_tensors(args: Arguments) -> relax.Expr | None:
    x, least, greatest = args["self"], args["min"], args["max"]
    if any(dtype_of(bound) != dtype_of(x) for bound in (least, greatest) if bound is not None):
        return None
    return _between(x, least, greatest)


def _between(x: relax.Expr, least: relax.Expr | None, greatest: relax.Expr | None) -> relax.Expr:
    if greatest is None:
        return larger(x, least)
    if least is None:
        return smaller(x, greatest)
    return smaller(greatest, larger(x, least))  # what is known about the first is asked for


RULES: dict[object, FloatRule] = {
    aten.relu.default: FloatRule(_clamp(0, None)),
    aten.relu6.default: FloatRule(_clamp(0, 6)),
    aten.clamp.default: FloatRule(_clamp("min", "max")),
    aten.clamp_min.default: FloatRule(_clamp("min", None)),
    aten.clamp_max.default: FloatRule(_clamp(None, "max")),
    aten.clamp.Tensor: FloatRule(_clamp_by_tensors),
    aten.hardtanh.default: FloatRule(_clamp("min_val", "max_val")),
}
