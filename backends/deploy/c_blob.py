"""Constants of C source in a file of bytes, which the assembler takes as it is.

Compilers need long for large arrays, and assemblers no time at all for `.incbin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qpc.backends.deploy.deployable import Array, raw_bytes

_ALIGNMENT = 16  # of every constant, of which no kernel wants more
_ASSEMBLER = """/* The constants of @name@: the bytes of @name@_weights.bin, which is looked for in
 * folders given by -I. Where they are to lie elsewhere, in a memory of their own for instance,
 * anything else may define the symbol @name@_weights, at a multiple of @alignment@. */
#ifndef @NAME@_WEIGHTS_FILE
#define @NAME@_WEIGHTS_FILE "@name@_weights.bin"
#endif
#ifdef __APPLE__
    .const
    .globl _@name@_weights
    .p2align 4
_@name@_weights:
    .incbin @NAME@_WEIGHTS_FILE
#else
    .section .rodata.@name@_weights, "a"
    .global @name@_weights
    .balign @alignment@
@name@_weights:
    .incbin @NAME@_WEIGHTS_FILE
    .size @name@_weights, . - @name@_weights
    .section .note.GNU-stack, ""
#endif
"""
DECLARED = """/* The constants, of which @name@_weights.bin holds the bytes. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "this file is for machines whose numbers begin with the lowest byte"
#endif
extern const unsigned char @name@_weights[];
#define CONSTANT(offset) ((const void *)(@name@_weights + (offset)))
"""


@dataclass(frozen=True)
class Blob:
    """The bytes of constants, and where each begins, by its name."""

    data: bytes
    offsets: Mapping[str, int]

    @classmethod
    def of(cls, weights: Mapping[str, Array]) -> Blob:
        """All constants, one after the other."""
        data = bytearray()
        offsets = {}
        for name, array in weights.items():
            offsets[name] = len(data)
            raw = raw_bytes(array)
            data += raw + bytes(-len(raw) % _ALIGNMENT)
        return cls(bytes(data), offsets)

    def files(self, name: str) -> dict[str, bytes]:
        """The files of a library of that name; the first is one for the assembler."""
        text = _ASSEMBLER.replace("@alignment@", str(_ALIGNMENT))
        text = text.replace("@name@", name).replace("@NAME@", name.upper())
        return {f"{name}_weights.S": text.encode(), f"{name}_weights.bin": self.data}
