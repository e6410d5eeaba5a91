"""The rules of all operators: integer operators by their kernels, float operators through TVM."""

from __future__ import annotations

from collections.abc import Mapping

from qpc.backends.common.families import families, merged
from qpc.backends.common.traits import TraitTable
from qpc.backends.tvm.custom import registered_kernels
from qpc.backends.tvm.lowering.call import KernelRule
from qpc.backends.tvm.lowering.custom_kernel import custom_rule
from qpc.backends.tvm.lowering.floats.rule import FloatRule

_HERE = "qpc.backends.tvm.lowering"

KERNELS: Mapping[object, KernelRule] = merged(f.RULES for f in families(f"{_HERE}.integers"))
"""How QPC's integer operators, and those that move integers, become calls of kernels."""

FLOATS: Mapping[object, FloatRule] = merged(f.RULES for f in families(f"{_HERE}.floats"))
"""How operators that stay in float become Relax."""


def kernel_rules() -> Mapping[object, KernelRule]:
    """How operators become calls of kernels: QPC's own, and those that packages have registered."""
    found: dict[object, KernelRule] = dict(KERNELS)
    found |= {operator: custom_rule(known) for operator, known in registered_kernels().items()}
    return found


def trait_table() -> TraitTable:
    """What the kernels of all these operators can do."""
    return {operator: rule.traits for operator, rule in kernel_rules().items()}
