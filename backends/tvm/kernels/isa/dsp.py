"""ARM's DSP extension of microcontrollers (Cortex-M4, M7, M33): two products in one instruction.

Activations are widened to 16 bits while they are copied, once for all output channels, so that a
register of 32 bits holds two; `sxtb16` makes two pairs of four weights, and `smlad` adds both
products of two pairs to a sum. Outputs that may be any byte are rounded by the unit for floats and
cut by `usat` or `ssat`. Code is C only: what it calls are functions of the file that it stands in,
which say the same in plain C for other machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import reinterpret
from qpc.backends.tvm.kernels.isa.base import Isa

SIGNED_PAIR, ADD_PRODUCTS = "signed_pair", "add_products"
"""Functions of C: bytes 0 and 2 of a word, or 1 and 3, as two of 16 bits; and `smlad`."""

REQUANTIZE_TO = {"uint8": "requantize_to_uint8", "int8": "requantize_to_int8"}
"""By type of activations, a function of C: a sum, a float that it is multiplied by, zero point."""

_REGISTERS = 12  # of kernels that take bytes one by one
_WORD_BITS = 32


@dataclass(frozen=True)
class DspRows(Isa):
    """Bytes one by one; what becomes of sums."""

    cuts_to_bytes: ClassVar[bool] = True

    def cut_to_bytes(
        self, accs: Sequence[Expr], multipliers: Sequence[Expr], zero_point: Expr
    ) -> Expr:
        (acc,), (multiplier,) = accs, multipliers
        name = REQUANTIZE_TO[self.activation]
        return tirx.call_pure_extern(self.activation, name, acc, multiplier, zero_point)


@dataclass(frozen=True)
class Dsp(DspRows):
    """Four products in one `dot`, of bytes that follow one another; one lane."""

    depth: int = 4
    dot_instructions: int = 2
    operand: str | None = "int16"
    unpacks: ClassVar[bool] = False

    @property
    def w_type(self) -> str:
        return "int8"

    @property
    def by_rows(self) -> Isa:
        """Bytes of several rows do not lie in one word."""
        return DspRows(
            self.name, self.lanes, _REGISTERS, activation=self.activation, costs=self.costs
        )

    def arranged(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        # Bytes 0 and 2 are a pair, as are 1 and 3.
        return weight[..., [0, 2, 1, 3]]

    def broadcast(self, x: Expr) -> Expr:
        """Four activations as one number of 64 bits, which is two registers."""
        return reinterpret(x, "int64", 1)

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        """See `Isa.dot`; w is four bytes."""
        word = reinterpret(w, "int32", 1)
        for half in (0, 1):
            pair = T.shift_right(x, T.IntImm("int64", _WORD_BITS)) if half else x
            weights = tirx.call_pure_extern("int32", SIGNED_PAIR, word, T.IntImm("int32", half))
            acc = tirx.call_pure_extern("int32", ADD_PRODUCTS, T.cast(pair, "int32"), weights, acc)
        return acc

    def accumulators_fit(self, pixels: int, vectors: int) -> bool:
        # sums, two pairs of weights each, two of activations
        return pixels * vectors + 2 * vectors + 2 <= self.registers

    def step_time(self, pixels: int, vectors: int) -> float:
        # Activations are two loads, weights a load and two instructions; addresses, and the loop.
        instructions = 2 * pixels * vectors + 2 * pixels + 3 * vectors + 4
        return instructions / self.dot_instructions
