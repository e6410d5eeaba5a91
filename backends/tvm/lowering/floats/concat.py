"""Joins of floats."""

from __future__ import annotations

from qpc.backends.tvm.lowering.floats.rule import IMPORTED, FloatRule
from qpc.calls import aten

RULES: dict[object, FloatRule] = {
    aten.cat.default: IMPORTED,
    aten.stack.default: IMPORTED,
}
