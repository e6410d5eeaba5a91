"""What linking needs to know of a machine: what its relocations mean, and how code jumps.

Terms are those of the System V ABI and its supplements: S symbol value, A addend, G address of the
symbol's slot in the global offset table.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import Enum, auto
from typing import ClassVar, Protocol

from qpc.errors import BackendError


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


class AArch64:
    """ARM's machines of 64 bits, whose code refers to memory by pages of 4 KiB and places in them.

    Numbers of relocations are those of the ELF supplement for the ARM 64-bit architecture.
    """

    name: ClassVar[str] = "aarch64"
    number: ClassVar[int] = 183
    page: ClassVar[int] = 0x10000  # Linux may have pages of 64 KiB there
    absolute: ClassVar[int] = 257  # R_AARCH64_ABS64
    filled_slot: ClassVar[int] = 1025  # R_AARCH64_GLOB_DAT
    relative: ClassVar[int] = 1027  # R_AARCH64_RELATIVE
    stub_size: ClassVar[int] = 16

    _PREL64: ClassVar[int] = 260
    _PREL32: ClassVar[int] = 261
    _PAGES: ClassVar[tuple[int, ...]] = (275, 311)  # ADR_PREL_PG_HI21, ADR_GOT_PAGE
    _BRANCHES: ClassVar[tuple[int, ...]] = (282, 283)  # JUMP26, CALL26
    # How far places in a page are shifted: ADD, LDST of 8 to 128 bits, LD64_GOT.
    _PLACES: ClassVar[Mapping[int, int]] = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4, 312: 3}

    def classify(self, kind: int) -> Reference | None:
        """See `Machine`."""
        if kind == self.absolute:
            return Reference.ADDRESS
        if kind in self._BRANCHES:
            return Reference.CODE
        if kind in (311, 312):
            return Reference.SLOT
        known = kind in (self._PREL64, self._PREL32, *self._PAGES, *self._PLACES)
        return Reference.DATA if known else None

    def apply(self, image: bytearray, kind: int, place: int, value: int) -> None:
        """See `Machine`: most fill in the bits of an instruction that hold a number."""
        if kind in (self._PREL64, self._PREL32):
            struct.pack_into("<q" if kind == self._PREL64 else "<i", image, place, value - place)
            return
        (word,) = struct.unpack_from("<I", image, place)
        if kind in self._BRANCHES:
            word |= _within(value - place, 28) >> 2
        elif kind in self._PAGES:
            word |= self._page_distance(place, value)
        else:
            word |= (value & 0xFFF) >> self._PLACES[kind] << 10
        struct.pack_into("<I", image, place, word)

    def stub(self, at: int, slot: int) -> bytes:
        """See `Machine`: `adrp x16; ldr x17, [x16, ...]; br x17`, and one that is never reached."""
        page = 0x90000010 | self._page_distance(at, slot)
        load = 0xF9400211 | (slot & 0xFFF) >> 3 << 10
        return struct.pack("<IIII", page, load, 0xD61F0220, 0xD503201F)

    def _page_distance(self, place: int, value: int) -> int:
        """The bits of `adrp` that hold how many pages on it is; the lowest two stand apart."""
        pages = _within((value >> 12) - (place >> 12), 21)
        return (pages & 3) << 29 | pages >> 2 << 5


def _within(distance: int, bits: int) -> int:
    """A distance in so many bits, the highest of which is its sign."""
    if not -(1 << bits - 1) <= distance < 1 << bits - 1:
        raise BackendError(f"cannot link: the code is too large, {distance} is out of reach")
    return distance & (1 << bits) - 1


MACHINES: Mapping[str, Machine] = {"x86_64": X86_64(), "aarch64": AArch64()}
"""By the architecture of a target."""
