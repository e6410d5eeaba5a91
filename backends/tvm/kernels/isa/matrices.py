"""Registers that hold matrices: sums of many pixels times many output channels at once.

One `dot` multiplies the consecutive input bytes of up to 16 pixels with the weights of as many
channels as a vector has lanes. `MatrixTiles` itself is plain arithmetic that works everywhere; a
subclass knows what a family of CPUs does better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm.tirx import Expr

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    cast,
    copy,
    loop,
    splat,
    wrapped_sum,
)
from qpc.backends.tvm.kernels.kernel import Array

DEPTH = 4
"""Bytes of a pixel that meet the weights of one row of a register."""


@dataclass(frozen=True)
class TileShape:
    """The registers of a micro-kernel.

    sums: [pixels, lanes] of int32, for every part of the pixels and vector of channels; x: [pixels,
    run] of activations; weights: [run / 4, lanes, 4] of int8.
    """

    parts: int
    vectors: int
    pixels: int
    run: int

    REGISTERS: ClassVar[int] = 8
    PIXELS: ClassVar[int] = 16
    """Of a register, at most."""
    LANES: ClassVar[int] = 16
    RUN: ClassVar[int] = 64
    """Bytes of a pixel in a register, at most."""

    @property
    def sums(self) -> int:
        """Registers with sums."""
        return self.parts * self.vectors

    @property
    def x_registers(self) -> range:
        """Registers with pixels: all parts, or those through which the parts pass."""
        return range(self.sums, self.sums + self._count(self.parts, self.vectors))

    @property
    def weight_registers(self) -> range:
        """Registers with weights: of all vectors, or those through which they pass."""
        first = self.x_registers.stop
        return range(first, first + self._count(self.vectors, self.parts))

    def _count(self, needed: int, others: int) -> int:
        """Registers of one operand: the one that is needed in fewer of them stays in them."""
        if needed < others:
            return needed
        left = self.REGISTERS - self.sums - min(needed, others)
        return min(left, needed) if needed > others else needed

    @property
    def weights_size(self) -> int:
        """Bytes of a register of weights."""
        return self.run * self.LANES

    @property
    def sums_size(self) -> int:
        """Numbers in a register of sums."""
        return self.PIXELS * self.LANES


@dataclass(frozen=True)
class MatrixTiles:
    """Plain int32 arithmetic on memory: `open` a set of registers to use it."""

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

    What `keep` writes is in `memory`: [register of sums, pixel, lane].
    """

    def __init__(self, shape: TileShape, memory: Flat) -> None:
        self.shape, self.memory = shape, memory
        self._sums = memory.part(shape.sums * shape.sums_size)
        self._operands: dict[int, tuple[Flat, Index, int]] = {}

    def start(self, sums: int, bias: Flat, offset: Index) -> None:
        """Set the sums of every pixel to `bias[offset : offset + lanes]`."""
        lanes = TileShape.LANES
        with loop(self.shape.pixels) as pixel:
            at = sums * self.shape.sums_size + pixel * lanes
            self._sums.store(at, bias.load(offset, lanes), lanes)

    def load(self, register: int, source: Flat, offset: Index, step: int) -> None:
        """Read an operand whose rows are `step` apart."""
        self._operands[register] = (source, offset, step)

    def dot(self, sums: int, x: int, weights: int) -> None:
        """Add the products of registers of both operands to sums."""
        lanes = TileShape.LANES
        x_data, x_offset, step = self._operands[x]
        w_data, w_offset, _ = self._operands[weights]
        with loop(self.shape.pixels) as pixel, loop(self.shape.run // DEPTH) as row:
            at = bind(sums * self.shape.sums_size + pixel * lanes)
            total: Expr = self._sums.load(at, lanes)
            for i in range(DEPTH):
                value = x_data.load(x_offset + pixel * step + row * DEPTH + i)
                w = w_data.load_strided(w_offset + row * (lanes * DEPTH) + i, DEPTH, lanes)
                product = splat(cast(value, "int32", 1), lanes) * cast(w, "int32", lanes)
                total = wrapped_sum(total, product, lanes)
            self._sums.store(at, total, lanes)

    def keep(self, sums: int) -> None:
        """Write sums to memory."""
        first, size = sums * self.shape.sums_size, self.shape.sums_size
        copy(self.memory, first, self._sums, first, size)

    def close(self) -> None:
        """Leave the registers to others."""
