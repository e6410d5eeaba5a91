"""Bytes of several rows in turn, within blocks of 16 bytes, as unpacking instructions do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr

from qpc.backends.tvm.kernels.emit import bind, shuffle
from qpc.backends.tvm.kernels.isa.base import Isa

_Vector = TypeVar("_Vector")

BLOCK_BYTES = 16


@dataclass(frozen=True)
class Interleaving(Isa):
    """Vectors of one or more blocks, whose `interleave` takes elements of two of them in turn."""

    def interleave(self, rows: Sequence[Expr]) -> list[Expr]:
        return self._interleave(rows, lambda pair, lanes: bind(shuffle(pair, lanes)))

    @property
    def interleave_cost(self) -> int:
        return self.depth * (self.depth.bit_length() - 1)

    def interleaved_channels(self) -> npt.NDArray[np.int64]:
        channels = np.arange(self.lanes * self.depth)
        vectors = self._interleave(
            [channels] * self.depth, lambda pair, lanes: np.concatenate(pair)[lanes]
        )
        return np.stack(vectors)[:, :: self.depth]

    def _interleave(
        self, rows: Sequence[_Vector], take: Callable[[list[_Vector], list[int]], _Vector]
    ) -> list[_Vector]:
        """Rows into as many vectors; `take` gathers lanes of two concatenated vectors."""
        groups = [[row] for row in rows]
        for width in self._widths:
            groups = [
                [
                    take([a, b], lanes)
                    for a, b in zip(first, second, strict=True)
                    for lanes in self._unpack(width)
                ]
                for first, second in zip(groups[::2], groups[1::2], strict=True)
            ]
        return groups[0]

    @property
    def _widths(self) -> list[int]:
        """How many elements of a row stay together, step by step."""
        return [1 << step for step in range(self.depth.bit_length() - 1)]

    def _unpack(self, width: int) -> list[list[int]]:
        """Elements that interleave `width` elements of two vectors each, within blocks."""
        size = self.lanes * self.depth
        block_size = BLOCK_BYTES * self.depth // 4
        halves = []
        for half in (0, block_size // 2):
            starts = range(half, half + block_size // 2, width)
            halves.append(
                list(
                    chain.from_iterable(
                        range(source + block + start, source + block + start + width)
                        for block in range(0, size, block_size)
                        for start in starts
                        for source in (0, size)
                    )
                )
            )
        return halves
