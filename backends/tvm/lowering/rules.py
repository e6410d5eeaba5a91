"""The rules of all operators: integer operators by their kernels, float operators through TVM.

A family of operators is a file with a table `RULES`: to add an operator is an entry there.
"""

from __future__ import annotations

from collections.abc import Mapping

from qpc.backends.common.traits import TraitTable
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
    **convolution.RULES,
    **linear.RULES,
    **arithmetic.RULES,
    **concat.RULES,
    **pooling.RULES,
    **reduction.RULES,
    **resize.RULES,
    **pointwise.RULES,
    **clamp.RULES,
    **movement.RULES,
    **rounding.RULES,
}
"""Integer operators, by operator."""

TRAITS: TraitTable = {target: rule.traits for target, rule in KERNELS.items()}
"""What their kernels can do."""
