"""Sums of two pixels by two output channels in a vector, as products of small matrices make them.

The sums of two neighbouring pixels and of the four channels of a vector are two registers: of the
channels' first half, then of their second half. In each, those of the first pixel come first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.tirx import Expr

from qpc.backends.tvm.kernels.conv.tiling import Tile
from qpc.backends.tvm.kernels.emit import Flat, bind, shuffle
from qpc.backends.tvm.kernels.isa.base import Isa


@dataclass(frozen=True)
class PairedSums:
    """The sums of a tile with an even number of pixels; `flat` has room for one lane of each."""

    isa: Isa
    tile: Tile
    flat: Flat

    def start(self, initial: Sequence[Expr]) -> None:
        """Set the sums of every pixel to these vectors."""
        for vector, value in enumerate(initial):
            for half in (0, 1):
                lanes = self._half(half)
                both = bind(shuffle([value], [*lanes, *lanes]))
                for pair in range(self.tile.pixels // 2):
                    self.flat.store(self._at(pair, vector, half), both, self.isa.lanes)

    def add(self, loaded: Sequence[Expr], steps: int, weights: Callable[[int, int], Expr]) -> None:
        """Add the products of some steps.

        loaded: `steps * depth` activations of each pixel. weights: a vector of them, by its offset
        from those of the first step, and its size.
        """
        isa, tile = self.isa, self.tile
        size, depth = isa.lanes * isa.depth // 2, isa.depth
        for step in range(steps):
            own = range(step * depth, (step + 1) * depth)
            other = range((steps + step) * depth, (steps + step + 1) * depth)
            pairs = [
                bind(shuffle(loaded[at : at + 2], [*own, *other]))
                for at in range(0, tile.pixels, 2)
            ]
            for vector in range(tile.vectors):
                for half in (0, 1):
                    number = 2 * (step * tile.vectors + vector) + half
                    w = bind(weights(number * size, size))
                    for pair, x in enumerate(pairs):
                        at = self._at(pair, vector, half)
                        total = isa.dot(self.flat.load(at, isa.lanes), x, w)
                        self.flat.store(at, total, isa.lanes)

    def totals(self, pixel: int) -> list[Expr]:
        """The sums of a pixel, as vectors of channels."""
        lanes = self._half(pixel % 2)
        others = [self.isa.lanes + lane for lane in lanes]
        return [
            shuffle(
                [bind(self._load(pixel // 2, vector, half)) for half in (0, 1)], [*lanes, *others]
            )
            for vector in range(self.tile.vectors)
        ]

    def _load(self, pair: int, vector: int, half: int) -> Expr:
        return self.flat.load(self._at(pair, vector, half), self.isa.lanes)

    def _at(self, pair: int, vector: int, half: int) -> int:
        return ((pair * self.tile.vectors + vector) * 2 + half) * self.isa.lanes

    def _half(self, half: int) -> range:
        size = self.isa.lanes // 2
        return range(half * size, (half + 1) * size)
