"""The rules of all operators: integer operators by their kernels, float operators through TVM."""

from __future__ import annotations

from qpc.backends.common.traits import TraitTable
from qpc.backends.tvm.lowering.floats.families import FLOATS
from qpc.backends.tvm.lowering.integers.families import KERNELS

TRAITS: TraitTable = {target: rule.traits for target, rule in KERNELS.items()}
"""What the kernels of integer operators can do."""

__all__ = ["FLOATS", "KERNELS", "TRAITS"]
