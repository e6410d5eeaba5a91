"""What all libraries have in common: the numbers and types by which C programs know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ARENA_ALIGNMENT = 64
"""Of the arena, in bytes: that of the places in it."""

ERRORS: Mapping[str, tuple[int, str]] = {
    "OK": (0, "all outputs are written"),
    "ERROR_NULL": (1, "an address is null"),
    "ERROR_ARENA_SIZE": (2, "the arena is smaller than ARENA_BYTES"),
    "ERROR_ARENA_ALIGNMENT": (3, "the arena does not begin at a multiple of ARENA_ALIGNMENT"),
    "ERROR_ALIGNMENT": (4, "an input or output does not begin at a multiple of its element's size"),
    "ERROR_KERNEL": (5, "a kernel failed: threads could not be started"),
}
"""What the function of a library returns: names without the model's, numbers, and what they say."""


@dataclass(frozen=True)
class ElementType:
    """A type of elements.

    numpy: numpy's name of one that has its bytes; c: C's; bytes: its size.
    """

    numpy: str
    c: str
    bytes: int


ELEMENTS: Mapping[str, ElementType] = {
    "float32": ElementType("float32", "float", 4),
    "float64": ElementType("float64", "double", 8),
    "float16": ElementType("uint16", "uint16_t", 2),
    "bfloat16": ElementType("uint16", "uint16_t", 2),
    "bool": ElementType("uint8", "uint8_t", 1),
    **{
        f"{sign}int{bits}": ElementType(f"{sign}int{bits}", f"{sign}int{bits}_t", bits // 8)
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
"""By the dtype of a tensor. Where C has no such type, it is one of that size."""
