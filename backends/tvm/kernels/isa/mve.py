"""ARM's vectors of microcontrollers (MVE, "Helium", of Cortex-M55 and M85): 16 bytes at a time.

Sixteen products become one number in one instruction, so that dense convolutions have one sum for
each output, in an ordinary register; four of them are requantized together. Depthwise convolutions
have a channel in each of four lanes. Code is C only: what it calls are functions of the file that
it stands in, which say the same in plain C for other machines. Activations are signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.tirx import Expr

from qpc.backends.tvm.kernels.emit import Flat
from qpc.backends.tvm.kernels.isa.base import Isa

LANES = 4
_SUMS = 4  # of a tile; sums can be in registers of even numbers only, and addresses need some
_ALONE = 4
_ROWS = 7  # registers of vectors, one less than there are: weights of a row stay in some


@dataclass(frozen=True)
class Quads(Isa):
    """What happens to four values together."""

    unpacks: ClassVar[bool] = False
    stores_parts: ClassVar[bool] = False

    def requantized(
        self, accs: Sequence[Expr], multipliers: Sequence[Expr], bounds: Sequence[Expr]
    ) -> Expr | None:
        if len(accs) * self.lanes != LANES:
            return None
        if self.lanes == 1:
            accs = [_call("int32x4", "four_words", *accs)]
            multipliers = [_call("float32x4", "four_floats", *multipliers)]
        return _call("int8x4", "requantize_four", accs[0], multipliers[0], *bounds)

    def added(self, a: Expr, b: Expr, constants: Sequence[Expr], lanes: int) -> Expr:
        if lanes != LANES:
            return super().added(a, b, constants, lanes)
        return _call("int8x4", "add_four", a, b, *constants)

    def lookup(self, table: Flat, values: Expr, lanes: int) -> Expr:
        if lanes != LANES:
            return super().lookup(table, values, lanes)
        return _call("int8x4", "look_up_four", table.address(0), values)

    def clamped(self, value: Expr, lo: Expr, hi: Expr, lanes: int) -> Expr:
        if lanes != LANES:
            return super().clamped(value, lo, hi, lanes)
        return _call("int8x4", "clamp_four", value, lo, hi)


@dataclass(frozen=True)
class Mve(Quads):
    """Sixteen products in one `dot`, of bytes that follow one another; one lane."""

    depth: int = 16
    sums_in_flight: int = 1
    vectors_per_store: int = LANES

    @property
    def by_rows(self) -> Isa:
        return MveRows(
            self.name, LANES, _ROWS, activation=self.activation, costs=self.costs, sums_in_flight=1
        )

    @property
    def joining(self) -> Isa:
        # Four sums are an argument of functions that know nothing of what could be added.
        return Isa(self.name, 1, self.registers, activation=self.activation, costs=self.costs)

    def broadcast(self, x: Expr) -> Expr:
        return x

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        return _call("int32", "add_sixteen_products", acc, x, w)

    def accumulators_fit(self, pixels: int, vectors: int) -> bool:
        # Four channels of a pixel, whose outputs are computed together, or a few pixels of one.
        return (pixels, vectors) == (1, LANES) or (vectors == 1 and pixels <= _SUMS)

    def step_time(self, pixels: int, vectors: int) -> float:
        # Channels by themselves are requantized one by one, which takes longer than their sums.
        alone = 0 if vectors == LANES else _ALONE * pixels
        return pixels * vectors + pixels + vectors + alone


@dataclass(frozen=True)
class MveRows(Quads):
    """Four channels in the lanes of a vector, one row of the window at a time."""

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        return _call("int32x4", "add_four_products", acc, x, w)


def _call(dtype: str, name: str, *arguments: Expr) -> Expr:
    return tirx.call_pure_extern(dtype, name, *arguments)
