"""NEON of ARMv7: the same products of bytes, 16 registers, and no rounding to integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx import Expr

from qpc.backends.tvm.kernels.emit import Flat, reinterpret, shuffle, splat
from qpc.backends.tvm.kernels.isa.base import Isa, intrinsic
from qpc.backends.tvm.kernels.isa.neon import ByteProducts


@dataclass(frozen=True)
class ByteProducts32(ByteProducts):
    """Halves of registers are registers, so that an activation is broadcast into a half."""

    saturates: ClassVar[bool] = False
    rounds_exactly: ClassVar[bool] = False
    narrow_words: ClassVar[str] = "llvm.arm.neon.vqmovns"
    multiply: ClassVar[str] = "llvm.arm.neon.vmulls"

    def rounds_to_bytes(self, count: int) -> bool:
        return False

    def nearest(self, value: Expr) -> Expr:
        return Isa.nearest(self, value)

    def lookup(self, table: Flat, values: Expr, lanes: int) -> Expr:
        # A table of 256 bytes fills all registers.
        return Isa.lookup(self, table, values, lanes)

    def dot_step(self, acc: Expr, x: Expr, w: Expr, step: int, steps: int) -> Expr:
        pairs = reinterpret(x, "int16", 2 * steps)
        halves = []
        for half in (0, 1):
            pair = splat(shuffle([pairs], [2 * step + half]), self.lanes)
            own = range(8 * half, 8 * half + 8)
            halves.append([reinterpret(pair, "int8", 8), shuffle([w], own)])
        return self._summed(acc, halves)

    def _paired(self, acc: Expr, words: Expr) -> Expr:
        return intrinsic("llvm.arm.neon.vpadals", "int32x4", acc, words)

    def accumulators_fit(self, pixels: int, vectors: int) -> bool:
        # sums, half a register of activations of each pixel, two of one of them in every lane;
        # of weights and products, three each: LLVM loads early
        return pixels * vectors + pixels / 2 + 8 <= self.registers

    def step_time(self, pixels: int, vectors: int) -> float:
        loads = pixels / self.steps_per_load + vectors / 2
        beside = (2 * pixels + loads) / self.dot_instructions
        return max(pixels * vectors + beside, self.sums_in_flight)
