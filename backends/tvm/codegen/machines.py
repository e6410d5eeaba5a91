"""What linking needs to know of a machine: what its relocations mean, and how code jumps.

Terms are those of the System V ABI and its supplements: S symbol value, A addend, G address of the
symbol's slot in the global offset table.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import Enum, auto
from typing import ClassVar, Protocol


class Reference(Enum):
    """What a relocation wants to be filled in with, before `Machine.apply` encodes it."""

    SLOT = auto()
    """G + A: where the address of the symbol can be read."""
    CODE = auto()
    """S + A, or that of a jump to the symbol, if another library has it."""
    DATA = auto()
    """S + A of a symbol that is in the same library."""
    ADDRESS = auto()
    """S + A in 64 bits, which the loader fills in."""


class Machine(Protocol):
    """A family of CPUs, as ELF counts them.

    name: what errors call it. number: `e_machine`. page: bytes, to which segments are aligned.
    absolute, filled_slot, relative: the dynamic relocations for S + A, for S in a slot, and for
    addresses within the library. stub_size: bytes of a stub.
    """

    name: ClassVar[str]
    number: ClassVar[int]
    page: ClassVar[int]
    absolute: ClassVar[int]
    filled_slot: ClassVar[int]
    relative: ClassVar[int]
    stub_size: ClassVar[int]

    def classify(self, kind: int) -> Reference | None:
        """What a relocation of an object file wants; None if it is not known."""

    def apply(self, image: bytearray, kind: int, place: int, value: int) -> None:
        """Encode a value at a place of the library, whose addresses count from 0."""

    def stub(self, at: int, slot: int) -> bytes:
        """Code at an address that jumps to what a slot holds."""


class X86_64:  # noqa: N801  # as ELF writes it
    """AMD64, whose code refers to memory by distances of 32 bits from itself."""

    name: ClassVar[str] = "x86-64"
    number: ClassVar[int] = 62
    page: ClassVar[int] = 0x1000
    absolute: ClassVar[int] = 1  # R_X86_64_64
    filled_slot: ClassVar[int] = 6  # R_X86_64_GLOB_DAT
    relative: ClassVar[int] = 8  # R_X86_64_RELATIVE
    stub_size: ClassVar[int] = 8

    _PC64: ClassVar[int] = 24
    _REFERENCES: ClassVar[Mapping[int, Reference]] = {
        absolute: Reference.ADDRESS,
        2: Reference.CODE,  # R_X86_64_PC32
        4: Reference.CODE,  # R_X86_64_PLT32
        _PC64: Reference.DATA,
        9: Reference.SLOT,  # R_X86_64_GOTPCREL
        41: Reference.SLOT,  # R_X86_64_GOTPCRELX
        42: Reference.SLOT,  # R_X86_64_REX_GOTPCRELX
    }

    def classify(self, kind: int) -> Reference | None:
        """See `Machine`."""
        return self._REFERENCES.get(kind)

    def apply(self, image: bytearray, kind: int, place: int, value: int) -> None:
        """See `Machine`."""
        struct.pack_into("<q" if kind == self._PC64 else "<i", image, place, value - place)

    def stub(self, at: int, slot: int) -> bytes:
        """See `Machine`: `jmp *disp32(%rip)`, and two bytes that are never reached."""
        return b"\xff\x25" + struct.pack("<i", slot - (at + 6)) + b"\x90\x90"


MACHINES: Mapping[str, Machine] = {"x86_64": X86_64()}
"""By the architecture of a target."""
