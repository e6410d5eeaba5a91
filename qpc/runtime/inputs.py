"""What callers pass, as arrays whose memory compiled code can read."""

from __future__ import annotations

import numpy as np

from qpc.errors import BackendError
from qpc.runtime.arrays import Array


def plain_array(value: object, name: str) -> Array:
    """A contiguous numpy array in native byte order with the values of an input.

    Raises BackendError, which names the input, for what has no such values.
    """
    if not isinstance(value, np.ndarray):
        raise BackendError(
            f"input {name!r} is a {type(value).__name__}, expected a numpy array",
            fix="convert it with numpy.asarray(...)",
        )
    if isinstance(value, np.ma.MaskedArray):
        raise BackendError(
            f"input {name!r} is a masked array: masked values are unknown",
            fix="say what they are, with .filled(value)",
        )
    array = np.ndarray.view(value, np.ndarray)  # without the methods of a subclass
    if array.dtype.kind not in "fiub":
        raise BackendError(f"input {name!r} is a numpy array of {array.dtype}, not of numbers")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return np.require(native, requirements=["C", "A"])
