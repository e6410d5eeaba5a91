"""Cores without a unit for floats (Cortex-M0+, M3): requantization by integers, where it is exact.

Code is C only: the function that it calls is one of the file that it stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import Expr

from qpc.backends.tvm.kernels.emit import cast
from qpc.backends.tvm.kernels.isa.base import Isa

REQUANTIZE = "requantize"
"""A function of C: a sum and a float that it is multiplied by, zero point, and bounds."""


@dataclass(frozen=True)
class SoftFloat(Isa):
    """Plain arithmetic, in one lane."""

    def requantized(
        self, accs: Sequence[Expr], multipliers: Sequence[Expr], bounds: Sequence[Expr]
    ) -> Expr | None:
        (acc,), (multiplier,) = accs, multipliers
        value = tirx.call_pure_extern("int32", REQUANTIZE, acc, multiplier, *bounds)
        return cast(value, self.activation, 1)
