"""AMX, the matrix registers of x86: eight of 16 rows of 64 bytes each.

`tdpbusd` multiplies uint8 by int8 and adds four products at a time to an int32, without saturation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import Flat, Index
from qpc.backends.tvm.kernels.isa.matrices import MatrixTiles, Registers, TileShape
from qpc.backends.tvm.kernels.kernel import Array

_PALETTE = 1
_NUMBER = 4  # bytes of an int32


@dataclass(frozen=True)
class Amx(MatrixTiles):
    """The registers of the CPU."""

    def config(self, shape: TileShape) -> Array:
        widths, heights = np.zeros(16, np.uint16), np.zeros(16, np.uint8)
        for registers, rows, row_bytes in (
            (range(shape.sums), shape.pixels, _NUMBER * shape.sizes.lanes),
            (shape.x_registers, shape.pixels, shape.run),
            (shape.weight_registers, shape.run // shape.sizes.depth, shape.sizes.row_bytes),
        ):
            heights[registers], widths[registers] = rows, row_bytes
        head = np.zeros(16, np.uint8)
        head[0] = _PALETTE
        return np.concatenate([head, widths.view(np.uint8), heights])

    def memory(self, shape: TileShape) -> int:
        return shape.sums * shape.sums_size

    def open(self, shape: TileShape, config: Flat, memory: Flat) -> Registers:
        return AmxRegisters(shape, config, memory)


class AmxRegisters(Registers):
    """The registers of the CPU, set up for a shape until they are closed."""

    def __init__(self, shape: TileShape, config: Flat, memory: Flat) -> None:
        super().__init__(shape, memory)
        _call("llvm.x86.ldtilecfg", config.address(0))

    def start(self, sums: int, bias: Flat, offset: Index) -> None:
        _move("llvm.x86.tileloadd64", sums, bias, offset, 0)

    def load(self, register: int, source: Flat, offset: Index, step: int) -> None:
        _move("llvm.x86.tileloadd64", register, source, offset, step)

    def dot(self, sums: int, x: int, weights: int) -> None:
        _call("llvm.x86.tdpbusd", *(T.IntImm("int8", number) for number in (sums, x, weights)))

    def keep(self, sums: int) -> None:
        step = _NUMBER * self.shape.vector_lanes
        _move("llvm.x86.tilestored64", sums, self.memory, self.shape.kept(sums), step)

    def close(self) -> None:
        _call("llvm.x86.tilerelease")


def _move(name: str, register: int, data: Flat, offset: Index, step: int) -> None:
    """Between a register and memory with rows that are `step` bytes apart."""
    _call(name, T.IntImm("int8", register), data.address(offset), T.IntImm("int64", step))


def _call(name: str, *args: Expr) -> None:
    T.evaluate(T.call_llvm_intrin("void", name, *args))
