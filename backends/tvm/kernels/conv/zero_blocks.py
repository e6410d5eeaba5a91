"""Weights with blocks of zeros: which there are, and lists of the blocks that are left.

A *term* of a sum is what one `dot` adds for each vector of a tile. It can be left out if its
weights are zero for all output channels of these vectors. Lists say which terms are left; they are
data, so layers that differ in nothing but their zeros share code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from qpc.backends.tvm.kernels.conv.tiling import ALL_KEPT
from qpc.backends.tvm.kernels.kernel import Array


def kept_shares(nonzero: npt.NDArray[np.bool_]) -> Mapping[int, int]:
    """How much is left, in parts of `ALL_KEPT` rounded up, for tiles of so many vectors.

    `nonzero[group, vector, term]` says which vectors of weights are not zero. Tiles for which
    (nearly) all is left are not in the result. The rounding is what lets layers share code.
    """
    groups, vectors, terms = nonzero.shape
    shares = {}
    for size in (n for n in range(1, vectors + 1) if vectors % n == 0):
        left = nonzero.reshape(groups, vectors // size, size, terms).any(2)
        share = max(1, ceil(ALL_KEPT * int(left.sum()) / left.size))
        if share < ALL_KEPT:
            shares[size] = share
    return shares


@dataclass(frozen=True)
class TermLists:
    """The terms that are left, unit by unit.

    weight: what is left of `weight[unit, term, ...]`, with zeros behind it up to the capacity.
    places: where the activations of each term are, as offsets from those of the first term.
    starts: where the terms of each unit begin in these; one more number than there are units.
    """

    weight: Array
    places: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]

    @classmethod
    def of(cls, weight: Array, places: npt.NDArray[np.int64], capacity: int) -> TermLists:
        """The lists of weight[unit, term, ...] and places[term], for up to `capacity` terms."""
        units, terms = weight.shape[:2]
        left = np.asarray(weight.reshape(units, terms, -1).any(2))
        spare = capacity - int(left.sum())
        return cls(
            np.pad(weight[left], [(0, spare)] + [(0, 0)] * (weight.ndim - 2)),
            np.pad(places[np.nonzero(left)[1]].astype(np.int32), (0, spare)),
            np.concatenate([[0], left.sum(1).cumsum()]).astype(np.int32),
        )
