"""Object files and shared libraries in the format ELF, of 64 bits: what stands where in them.

Names are those of `<elf.h>`; what differs from machine to machine stands in `machines.py`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from qpc.errors import BackendError

# Section types and flags, symbol binding, dynamic tags.
SHT_SYMTAB, SHT_RELA, SHT_NOBITS = 2, 4, 8
SHF_WRITE, SHF_ALLOC, SHF_EXEC = 1, 2, 4
STB_LOCAL, STB_WEAK, STT_SECTION = 0, 2, 3
SHN_UNDEF, SHN_ABS, SHN_COMMON = 0, 0xFFF1, 0xFFF2
PT_LOAD, PT_DYNAMIC, PT_GNU_STACK = 1, 2, 0x6474E551
PF_X, PF_W, PF_R = 1, 2, 4
DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_RELA = 1, 4, 5, 6, 7
DT_RELASZ, DT_RELAENT, DT_STRSZ, DT_SYMENT, DT_SONAME, DT_FLAGS = 8, 9, 10, 11, 14, 30
DF_BIND_NOW = 8

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
SHDR = struct.Struct("<IIQQQQIIQQ")
SYM = struct.Struct("<IBBHQQ")
RELA = struct.Struct("<QQq")

IDENTITY = b"\x7fELF\x02\x01\x01" + bytes(9)
"""How a file begins: 64 bits, the least byte first, version 1."""
ET_REL, ET_DYN = 1, 3


@dataclass
class Section:
    """A part of an object file, with the address that linking gives it."""

    name: str
    kind: int
    flags: int
    data: bytes
    size: int
    align: int
    link: int
    target: int
    address: int = 0


@dataclass(frozen=True)
class Symbol:
    """A name that an object file defines or needs, and where it is."""

    name: bytes
    binding: int
    kind: int
    section: int
    value: int
    size: int

    @property
    def undefined(self) -> bool:
        """Whether the file only needs it."""
        return self.section == SHN_UNDEF

    @property
    def is_shared(self) -> bool:
        """Whether other objects may define it or refer to it."""
        return self.binding != STB_LOCAL and bool(self.name)


@dataclass(frozen=True)
class Relocation:
    """A place in a section to be filled in when addresses are known."""

    section: int
    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass
class ObjectFile:
    """What linking needs of an object file."""

    sections: list[Section]
    symbols: list[Symbol]
    relocations: list[Relocation]


def parse(raw: bytes, machine: int, called: str) -> ObjectFile:
    """The object file in some bytes, for the machine of that number, which errors call so."""
    if raw[:6] != IDENTITY[:6] or struct.unpack_from("<HH", raw, 16) != (ET_REL, machine):
        raise BackendError(f"cannot link: the compiler did not emit an {called} object file")
    header = EHDR.unpack_from(raw)
    offset, count, names_index = header[6], header[12], header[13]
    rows = [SHDR.unpack_from(raw, offset + i * SHDR.size) for i in range(count)]
    names = raw[rows[names_index][4] :]
    sections = []
    for name, kind, flags, _, at, size, link, target, align, _ in rows:
        data = b"" if kind == SHT_NOBITS else raw[at : at + size]
        text = names[name : names.index(b"\0", name)].decode()
        sections.append(Section(text, kind, flags, data, size, max(align, 1), link, target))
    return ObjectFile(sections, _parse_symbols(sections), _parse_relocations(sections))


def _parse_symbols(sections: list[Section]) -> list[Symbol]:
    symbols = []
    for table in (s for s in sections if s.kind == SHT_SYMTAB):
        strings = sections[table.link].data
        for name, info, _, section, value, size in SYM.iter_unpack(table.data):
            text = strings[name : strings.index(b"\0", name)]
            symbols.append(Symbol(text, info >> 4, info & 15, section, value, size))
    return symbols


def _parse_relocations(sections: list[Section]) -> list[Relocation]:
    found = []
    for table in sections:
        if table.kind != SHT_RELA or not is_kept(sections[table.target]):
            continue
        for offset, info, addend in RELA.iter_unpack(table.data):
            found.append(Relocation(table.target, offset, info & 0xFFFFFFFF, info >> 32, addend))
    return found


def is_kept(section: Section) -> bool:
    """Sections that are in memory at run time; unwind tables are not needed by C functions."""
    return bool(section.flags & SHF_ALLOC) and section.name != ".eh_frame"
