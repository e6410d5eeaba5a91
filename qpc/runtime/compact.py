"""Saved weights without what can be computed from the rest: see `qpc.runtime.kernel_transform`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qpc.runtime.arrays import Stored
from qpc.runtime.kernel_transform import BY_PLACES, TAPS

_DIMENSIONS = 6  # as kernels of minimal filtering are packed: [unit, place, ...]


def compact(weights: Mapping[str, Stored]) -> tuple[dict[str, Stored], dict[str, int]]:
    """Tensors to save, and by name the places that some of them are to be spread to again.

    Only what `spread` restores to the last bit is replaced, so a tensor that merely looks like
    weights of minimal filtering is safe.
    """
    saved, places = dict(weights), {}
    for name, stored in weights.items():
        if stored.type.dtype != "int16" or len(stored.type.shape) != _DIMENSIONS:
            continue
        transform = BY_PLACES.get(stored.type.shape[1])
        taps = transform.taps(stored.array) if transform else None
        if taps is not None:
            saved[name] = Stored.of(taps)
            places[name] = stored.type.shape[1]
    return saved, places


def spread(saved: Mapping[str, Stored], places: Mapping[str, int]) -> dict[str, Stored]:
    """The weights that `compact` was given. Raises ValueError if they cannot be such."""
    made = dict(saved)
    for name, count in places.items():
        stored, transform = saved.get(name), BY_PLACES.get(count)
        if stored is None or transform is None:
            raise ValueError(f"places: there is no {name[:40]!r}, or none with {count} places")
        shape = stored.type.shape
        if stored.type.dtype != "int8" or len(shape) != _DIMENSIONS or shape[1] != TAPS**2:
            raise ValueError(f"places: {name[:40]!r} is {stored.type}, not 3 x 3 values of int8")
        made[name] = Stored.of(transform.spread(stored.array.view(np.int8)))
    return made
