"""All families of integer operators."""

from __future__ import annotations

from collections.abc import Mapping

from qpc.backends.tvm.lowering.call import KernelRule
from qpc.backends.tvm.lowering.integers import (
    arithmetic,
    clamp,
    concat,
    convolution,
    linear,
    movement,
    pointwise,
    pooling,
    reduction,
    resize,
    rounding,
)

KERNELS: Mapping[object, KernelRule] = {
    **arithmetic.RULES,
    **clamp.RULES,
    **concat.RULES,
    **convolution.RULES,
    **linear.RULES,
    **movement.RULES,
    **pointwise.RULES,
    **pooling.RULES,
    **reduction.RULES,
    **resize.RULES,
    **rounding.RULES,
}
"""How integer operators become calls of kernels, by operator."""
