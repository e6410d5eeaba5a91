"""Weights of minimal filtering (Winograd) are made of the 3 x 3 that they stand for, and back.

Kernels of 3 x 3 are 9 values of 8 bits, and become 16 or 36 of 16 bits: up to eight times the
bytes. See `qpc.backends.tvm.kernels.conv.filtering` for the method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt

TAPS = 3
"""Rows and columns of a kernel."""


@dataclass(frozen=True)
class KernelTransform:
    """The transform of kernels, of which `rows` is the matrix in one dimension."""

    rows: tuple[tuple[int, int, int], ...]

    @property
    def places(self) -> int:
        """How many values a kernel of 3 x 3 becomes."""
        return len(self.rows) ** 2

    def spread(self, taps: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        """taps[unit, 9, ...] -> [unit, place, ...]: transforms the second dimension."""
        units, _, *rest = taps.shape
        flat = taps.reshape(units, TAPS**2, prod(rest))
        # Products and sums stay below 2**24, so these are the integers, and fast.
        lines = self._matrix @ flat.astype(np.float32)
        return lines.astype(np.int16).reshape(units, self.places, *rest)

    def taps(self, places: npt.NDArray[np.int16]) -> npt.NDArray[np.int8] | None:
        """The inverse of `spread`, or None for what `spread` cannot have given."""
        units, _, *rest = places.shape
        flat = places.reshape(units, self.places, prod(rest))
        found = np.rint(np.linalg.pinv(self._matrix) @ flat.astype(np.float32))
        taps = found.clip(-128, 127).astype(np.int8).reshape(units, TAPS**2, *rest)
        return taps if np.array_equal(self.spread(taps), places) else None

    @cached_property
    def _matrix(self) -> npt.NDArray[np.float32]:
        """[place, tap]: the rows in both dimensions."""
        rows = np.array(self.rows, np.float32)
        return np.kron(rows, rows)


TWO_BY_TWO = KernelTransform(((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2)))
FOUR_BY_FOUR = KernelTransform(
    # The last row is halved, or its products with itself would need more than 16 bits.
    ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 12))
)
BY_PLACES: Mapping[int, KernelTransform] = {t.places: t for t in (TWO_BY_TWO, FOUR_BY_FOUR)}
