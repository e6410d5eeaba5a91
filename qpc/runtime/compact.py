"""Saved weights without what can be computed from the rest.

Where a CPU multiplies int16, weights of 8 bits lie in memory as such, and are saved as int8. Those
of minimal filtering are saved as the kernels of 3 x 3 that they are made of, see
`qpc.runtime.kernel_transform`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qpc.runtime.arrays import Stored
from qpc.runtime.kernel_transform import BY_PLACES, TAPS

AS_THEY_ARE = 1
"""How many places int8 is spread to that becomes int16 without any transform."""
_DIMENSIONS = 6  # as kernels of minimal filtering are packed: [unit, place, ...]


def compact(weights: Mapping[str, Stored]) -> tuple[dict[str, Stored], dict[str, int]]:
    """Tensors to save, and by name the places that some of them are to be spread to again.

    Only what `spread` restores to the last bit is replaced, so a tensor that merely looks like
    weights of minimal filtering is safe.
    """
    saved, places = dict(weights), {}
    for name, stored in weights.items():
        if stored.type.dtype == "int16" and (found := _bytes_of(stored)) is not None:
            saved[name], places[name] = found
    return saved, places


def _bytes_of(stored: Stored) -> tuple[Stored, int] | None:
    """The int8 that int16 was made of, and to how many places they are spread; None for others."""
    if len(stored.type.shape) == _DIMENSIONS:
        transform = BY_PLACES.get(stored.type.shape[1])
        taps = transform.taps(stored.array) if transform else None
        if taps is not None:
            return Stored.of(taps), stored.type.shape[1]
    narrow = stored.array.astype(np.int8)
    return (Stored.of(narrow), AS_THEY_ARE) if np.array_equal(narrow, stored.array) else None


def spread(saved: Mapping[str, Stored], places: Mapping[str, int]) -> dict[str, Stored]:
    """The weights that `compact` was given. Raises ValueError if they cannot be such."""
    made = dict(saved)
    for name, count in places.items():
        stored, transform = saved.get(name), BY_PLACES.get(count)
        if stored is None or (transform is None and count != AS_THEY_ARE):
            raise ValueError(f"places: there is no {name[:40]!r}, or none with {count} places")
        shape = stored.type.shape
        if transform is None:
            if stored.type.dtype != "int8":
                raise ValueError(f"places: {name[:40]!r} is {stored.type}, not int8")
            made[name] = Stored.of(stored.array.astype(np.int16))
            continue
        if stored.type.dtype != "int8" or len(shape) != _DIMENSIONS or shape[1] != TAPS**2:
            raise ValueError(f"places: {name[:40]!r} is {stored.type}, not 3 x 3 values of int8")
        made[name] = Stored.of(transform.spread(stored.array.view(np.int8)))
    return made
