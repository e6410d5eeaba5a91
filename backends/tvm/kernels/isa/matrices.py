"""Registers that hold matrices: sums of many pixels times many output channels at once.

One `dot` multiplies the consecutive input bytes of several pixels with the weights of several
channels; how many is what `MatrixSizes` say. `MatrixTiles` itself is plain arithmetic that works
everywhere; a subclass knows what a family of CPUs does better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.tirx import Expr

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    cast,
    loop,
    splat,
    wrapped_sum,
)
from qpc.backends.tvm.kernels.kernel import Array


@dataclass(frozen=True)
class MatrixSizes:
    """The registers of a CPU, and what one instruction does with them.

    registers: how many there are. pixels, lanes: rows and columns of a register of sums, at most
    and always. run: bytes of a pixel in a register, at most; depth: how many of these meet one row
    of weights. blocks: parts of pixels and vectors of channels that a micro-kernel can have.
    """

    registers: int
    pixels: int
    lanes: int
    run: int
    depth: int
    blocks: tuple[tuple[int, int], ...]

    @property
    def row_bytes(self) -> int:
        """Size of a row of weights."""
        return self.lanes * self.depth


@dataclass(frozen=True)
class TileShape:
    """The registers of a micro-kernel.

    sums: [pixels, lanes] of int32, for every part of the pixels and column of channels; x: [pixels,
    run] of activations; weights: [run / depth, lanes, depth] of int8. `per_vector` registers are
    the columns of a vector of channels, which is read from memory as one.
    """

    sizes: MatrixSizes
    parts: int
    vectors: int
    pixels: int
    run: int
    per_vector: int = 1

    @property
    def columns(self) -> int:
        """Registers that all channels need."""
        return self.vectors * self.per_vector

    @property
    def sums(self) -> int:
        """Registers with sums."""
        return self.parts * self.columns

    @property
    def x_registers(self) -> range:
        """Registers with pixels: all parts, or those through which the parts pass."""
        return range(self.sums, self.sums + self._count(self.parts, self.columns))

    @property
    def weight_registers(self) -> range:
        """Registers with weights: of all columns, or those through which they pass."""
        first = self.x_registers.stop
        return range(first, first + self._count(self.columns, self.parts))

    def _count(self, needed: int, others: int) -> int:
        """Registers of one operand: the one that is needed in fewer of them stays in them."""
        if needed < others:
            return needed
        left = self.sizes.registers - self.sums - min(needed, others)
        return min(left, needed) if needed > others else needed

    @property
    def weights_size(self) -> int:
        """Bytes of a register of weights."""
        return self.run * self.sizes.lanes

    @property
    def sums_size(self) -> int:
        """Numbers in a register of sums."""
        return self.sizes.pixels * self.sizes.lanes

    @property
    def vector_lanes(self) -> int:
        """Lanes of a vector, which is a row in memory."""
        return self.per_vector * self.sizes.lanes

    def kept(self, sums: int) -> int:
        """Where in memory the first number of a register of sums is kept."""
        vector, column = divmod(sums, self.per_vector)
        return vector * self.per_vector * self.sums_size + column * self.sizes.lanes


WIDE = MatrixSizes(
    registers=8,
    pixels=16,
    lanes=16,
    run=64,
    depth=4,
    blocks=((2, 2), (4, 1), (1, 4), (3, 1), (2, 1), (1, 2), (1, 1)),
)
"""Those of AMX."""


@dataclass(frozen=True)
class MatrixTiles:
    """Plain int32 arithmetic on memory: `open` a set of registers to use it."""

    sizes: MatrixSizes = WIDE

    def config(self, shape: TileShape) -> Array:
        """The constants that `open` needs, uint8[64]."""
        return np.zeros(64, np.uint8)

    def memory(self, shape: TileShape) -> int:
        """How many int32 of memory `open` needs."""
        return 2 * shape.sums * shape.sums_size

    def open(self, shape: TileShape, config: Flat, memory: Flat) -> Registers:
        """Registers for one task."""
        return Registers(shape, memory)


class Registers:
    """Registers of sums and of both operands, by number.

    What `keep` writes is in `memory`: [part, vector of channels, pixel, lane of the vector].
    """

    def __init__(self, shape: TileShape, memory: Flat) -> None:
        self.shape, self.memory = shape, memory
        self._sums = memory.part(shape.sums * shape.sums_size)
        self._operands: dict[int, tuple[Flat, Index, int]] = {}

    def start(self, sums: int, bias: Flat, offset: Index) -> None:
        """Set the sums of every pixel to `bias[offset : offset + lanes]`."""
        lanes = self.shape.sizes.lanes
        with loop(self.shape.pixels) as pixel:
            at = sums * self.shape.sums_size + pixel * lanes
            self._sums.store(at, bias.load(offset, lanes), lanes)

    def load(self, register: int, source: Flat, offset: Index, step: int) -> None:
        """Read an operand whose rows are `step` apart."""
        self._operands[register] = (source, offset, step)

    def dot(self, sums: int, x: int, weights: int) -> None:
        """Add the products of registers of both operands to sums."""
        lanes, depth = self.shape.sizes.lanes, self.shape.sizes.depth
        x_data, x_offset, step = self._operands[x]
        w_data, w_offset, _ = self._operands[weights]
        with loop(self.shape.pixels) as pixel, loop(self.shape.run // depth) as row:
            at = bind(sums * self.shape.sums_size + pixel * lanes)
            total: Expr = self._sums.load(at, lanes)
            for i in range(depth):
                value = x_data.load(x_offset + pixel * step + row * depth + i)
                w = w_data.load_strided(w_offset + row * (lanes * depth) + i, depth, lanes)
                product = splat(cast(value, "int32", 1), lanes) * cast(w, "int32", lanes)
                total = wrapped_sum(total, product, lanes)
            self._sums.store(at, total, lanes)

    def keep(self, sums: int) -> None:
        """Write sums to memory."""
        shape, lanes = self.shape, self.shape.sizes.lanes
        with loop(shape.pixels) as pixel:
            row = self._sums.load(sums * shape.sums_size + pixel * lanes, lanes)
            self.memory.store(shape.kept(sums) + pixel * shape.vector_lanes, row, lanes)

    def close(self) -> None:
        """Leave the registers to others."""
