"""All families of operators that stay in float."""

from __future__ import annotations

from collections.abc import Mapping

from qpc.backends.tvm.lowering.floats import (
    arithmetic,
    clamp,
    concat,
    convolution,
    linear,
    logic,
    movement,
    norms,
    pointwise,
    pooling,
    reduction,
    resize,
    variance,
)
from qpc.backends.tvm.lowering.floats.rule import FloatRule

FLOATS: Mapping[object, FloatRule] = {
    **arithmetic.RULES,
    **clamp.RULES,
    **concat.RULES,
    **convolution.RULES,
    **linear.RULES,
    **logic.RULES,
    **movement.RULES,
    **norms.RULES,
    **pointwise.RULES,
    **pooling.RULES,
    **reduction.RULES,
    **resize.RULES,
    **variance.RULES,
}
"""How operators that stay in float become Relax, by operator."""
