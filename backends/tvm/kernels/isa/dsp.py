"""ARM's DSP extension of microcontrollers (Cortex-M4, M7, M33): two products in one instruction.

A register of 32 bits holds four bytes, of which `uxtb16` and `sxtb16` make two pairs of 16 bits
each; `smlad` adds both products of two pairs to a sum. Code is C only: what it calls are functions
of the file that it stands in, which say the same in plain C for other machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.tirx import Expr

from qpc.backends.tvm.kernels.emit import reinterpret
from qpc.backends.tvm.kernels.isa.base import Isa

UNSIGNED_PAIR, SIGNED_PAIR, ADD_PRODUCTS = "unsigned_pair", "signed_pair", "add_products"
"""Functions of C: bytes 0 and 2 of a word, or 1 and 3, as two of 16 bits; and `smlad`."""


_REGISTERS = 12  # of kernels that take bytes one by one


@dataclass(frozen=True)
class Dsp(Isa):
    """Four products in one `dot`, of bytes that follow one another; one lane."""

    depth: int = 4
    dot_instructions: int = 2
    unpacks: ClassVar[bool] = False

    @property
    def by_rows(self) -> Isa:
        """Bytes of several rows do not lie in one word."""
        return Isa(self.name, self.lanes, _REGISTERS, activation=self.activation, costs=self.costs)

    def broadcast(self, x: Expr) -> Expr:
        """Four activations as one word."""
        return reinterpret(x, "int32", 1)

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        """See `Isa.dot`; x and w are four bytes, x in a word."""
        word = reinterpret(w, "int32", 1)
        pair = UNSIGNED_PAIR if self.activation == "uint8" else SIGNED_PAIR
        for odd in (0, 1):
            which = tirx.IntImm("int32", odd)
            acc = tirx.call_pure_extern(
                "int32",
                ADD_PRODUCTS,
                tirx.call_pure_extern("int32", pair, x, which),
                tirx.call_pure_extern("int32", SIGNED_PAIR, word, which),
                acc,
            )
        return acc
