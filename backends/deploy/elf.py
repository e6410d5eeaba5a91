"""Relocatable object files in the format ELF, of 32 and 64 bits: read, and written again.

Names are those of `<elf.h>`. An object is kept as what a linker makes of it: sections with their
relocations, and symbols. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from qpc.errors import BackendError

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 1, 2, 3, 4, 8, 9
SHF_WRITE, SHF_ALLOC, SHF_EXEC, SHF_LINK_ORDER = 1, 2, 4, 0x80
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_OBJECT, STT_SECTION, STT_FILE = 1, 3, 4
STV_DEFAULT = 0
SHN_UNDEF, SHN_RESERVED, SHN_COMMON = 0, 0xFF00, 0xFFF2
SHF_INFO_LINK = 0x40
_ET_REL = 1


@dataclass(frozen=True)
class Layout:
    """How the structures of one of the two classes are packed.

    file, section: headers. symbol_bits: how many bits of a relocation's `r_info` are its kind.
    """

    identity: bytes
    file: struct.Struct
    section: struct.Struct
    symbol: struct.Struct
    plain: struct.Struct
    with_addend: struct.Struct
    kind_bits: int
    wide: bool


_WIDE = Layout(
    b"\x7fELF\x02\x01\x01",
    struct.Struct("<16sHHIQQQIHHHHHH"),
    struct.Struct("<IIQQQQIIQQ"),
    struct.Struct("<IBBHQQ"),
    struct.Struct("<QQ"),
    struct.Struct("<QQq"),
    32,
    wide=True,
)
_NARROW = Layout(
    b"\x7fELF\x01\x01\x01",
    struct.Struct("<16sHHIIIIIHHHHHH"),
    struct.Struct("<IIIIIIIIII"),
    struct.Struct("<IIIBBH"),
    struct.Struct("<II"),
    struct.Struct("<IIi"),
    8,
    wide=False,
)


@dataclass(frozen=True)
class Relocation:
    """A place to be filled in. addend: None if it stands at the place itself."""

    offset: int
    kind: int
    symbol: int
    addend: int | None


@dataclass
class Section:
    """A section with content; `size` alone counts for one that is zeros only (SHT_NOBITS).

    after: the section whose order in memory this one follows (SHF_LINK_ORDER), if there is one.
    """

    name: str
    kind: int
    flags: int
    data: bytes
    size: int
    align: int
    entry_size: int = 0
    after: int | None = None
    relocations: list[Relocation] = field(default_factory=list)

    @property
    def is_loaded(self) -> bool:
        """Whether it is in memory at run time."""
        return bool(self.flags & SHF_ALLOC)


@dataclass(frozen=True)
class Symbol:
    """A name or a place.

    section: of the object, None if another object has it, or a number that is no section (SHN_ABS).
    """

    name: str
    binding: int
    kind: int
    visibility: int
    section: int | None
    value: int
    size: int


@dataclass
class Object:
    """machine, flags: of the file's header."""

    layout: Layout
    machine: int
    flags: int
    sections: list[Section]
    symbols: list[Symbol]


_Rows: TypeAlias = "list[tuple[int, ...]]"


def read(raw: bytes) -> Object:
    """The object in some bytes. Raises BackendError for what is none."""
    layout = next((known for known in (_WIDE, _NARROW) if raw.startswith(known.identity)), None)
    if layout is None or len(raw) < layout.file.size:
        raise BackendError("the compiler did not emit an object file in the format ELF")
    header = layout.file.unpack_from(raw)
    kind, machine, offset, flags, count, names = (header[i] for i in (1, 2, 6, 7, 12, 13))
    if kind != _ET_REL:
        raise BackendError("the compiler did not emit an object file that can be linked")
    rows = [layout.section.unpack_from(raw, offset + i * layout.section.size) for i in range(count)]
    strings = _bytes(raw, rows[names])
    numbers: dict[int, int] = {}  # of the sections that have content
    sections: list[Section] = []
    for i, row in enumerate(rows):
        if i and row[1] not in (SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_REL):
            numbers[i] = len(sections)
            name = _text(strings, row[0])
            data = _bytes(raw, row)
            sections.append(Section(name, row[1], row[2], data, row[5], max(row[8], 1), row[9]))
    for i, at in numbers.items():
        if rows[i][2] & SHF_LINK_ORDER:
            sections[at].after = numbers[rows[i][6]]
    symbols = list(_symbols(raw, rows, layout, numbers))
    for row in rows:
        if row[1] in (SHT_RELA, SHT_REL):
            sections[numbers[row[7]]].relocations += _relocations(_bytes(raw, row), row, layout)
    return Object(layout, machine, flags, sections, symbols)


def _bytes(raw: bytes, row: tuple[int, ...]) -> bytes:
    return b"" if row[1] == SHT_NOBITS else raw[row[4] : row[4] + row[5]]


def _text(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode()


def _symbols(raw: bytes, rows: _Rows, layout: Layout, numbers: dict[int, int]) -> Iterator[Symbol]:
    for table in (row for row in rows if row[1] == SHT_SYMTAB):
        strings = _bytes(raw, rows[table[6]])
        for fields in layout.symbol.iter_unpack(_bytes(raw, table)):
            if layout.wide:
                name, info, other, at, value, size = fields
            else:
                name, value, size, info, other, at = fields
            section: int | None = at
            if at == SHN_UNDEF:
                section = None
            elif at < SHN_RESERVED:
                section = numbers[at]
            text, visibility = _text(strings, name), other & 3
            yield Symbol(text, info >> 4, info & 15, visibility, section, value, size)


def _relocations(data: bytes, row: tuple[int, ...], layout: Layout) -> Iterator[Relocation]:
    entry = layout.with_addend if row[1] == SHT_RELA else layout.plain
    for offset, info, *addend in entry.iter_unpack(data):
        kind = info & ((1 << layout.kind_bits) - 1)
        yield Relocation(offset, kind, info >> layout.kind_bits, addend[0] if addend else None)


# --- writing --------------------------------------------------------------------------------------


def write(made: Object) -> bytes:
    """The file of an object, whose local symbols come first."""
    return _Writer(made).file()


class _Writer:
    def __init__(self, made: Object) -> None:
        self._object, self._layout = made, made.layout
        self._image = bytearray(made.layout.file.size)
        self._rows: list[tuple[int, ...]] = [(0,) * 10]
        self._strings = _Strings()

    def file(self) -> bytes:
        sections = self._object.sections
        if 2 * len(sections) + 4 >= SHN_RESERVED:
            raise BackendError(f"an object file cannot hold {len(sections)} sections")
        for section in sections:
            link = 0 if section.after is None else section.after + 1
            self._add(section.name, section, link=link)
        relocated = [(i, s) for i, s in enumerate(sections, 1) if s.relocations]
        table = len(sections) + len(relocated) + 1
        for number, section in relocated:
            self._add_relocations(number, section, table)
        self._add_symbols(table)
        self._finish()
        return bytes(self._image)

    def _add(self, name: str, section: Section, *, link: int = 0, info: int = 0) -> None:
        self._pad(section.align)
        at = len(self._image)
        self._image += section.data
        row = (self._strings.add(name), section.kind, section.flags, 0, at, section.size)
        self._rows.append((*row, link, info, section.align, section.entry_size))

    def _add_relocations(self, number: int, section: Section, table: int) -> None:
        layout = self._layout
        has_addend = section.relocations[0].addend is not None
        entry = layout.with_addend if has_addend else layout.plain
        data = b"".join(
            entry.pack(r.offset, r.symbol << layout.kind_bits | r.kind, *_addend(r))
            for r in section.relocations
        )
        kind, prefix = (SHT_RELA, ".rela") if has_addend else (SHT_REL, ".rel")
        flags, align = SHF_INFO_LINK, 8 if layout.wide else 4
        made = Section(prefix + section.name, kind, flags, data, len(data), align, entry.size)
        self._add(made.name, made, link=table, info=number)

    def _add_symbols(self, table: int) -> None:
        layout, names = self._layout, _Strings()
        rows = []
        for symbol in self._object.symbols:
            info, name = symbol.binding << 4 | symbol.kind, names.add(symbol.name)
            at = _section_number(symbol.section)
            head = (name, info, symbol.visibility, at, symbol.value, symbol.size)
            order = range(6) if layout.wide else (0, 4, 5, 1, 2, 3)
            rows.append(layout.symbol.pack(*(head[i] for i in order)))
        data = b"".join(rows)
        local = sum(symbol.binding == STB_LOCAL for symbol in self._object.symbols)
        size, align = layout.symbol.size, 8 if layout.wide else 4
        symtab = Section(".symtab", SHT_SYMTAB, 0, data, len(data), align, size)
        self._add(".symtab", symtab, link=table + 1, info=local)
        self._add(".strtab", _string_section(".strtab", names.data))

    def _finish(self) -> None:
        layout, name = self._layout, ".shstrtab"
        self._strings.add(name)
        self._add(name, _string_section(name, self._strings.data))
        self._pad(8)
        at = len(self._image)
        self._image += b"".join(layout.section.pack(*row) for row in self._rows)
        sizes = (layout.file.size, 0, 0, layout.section.size, len(self._rows), len(self._rows) - 1)
        identity = layout.identity.ljust(16, b"\0")
        made = self._object
        header = (identity, _ET_REL, made.machine, 1, 0, 0, at, made.flags, *sizes)
        self._image[: layout.file.size] = layout.file.pack(*header)

    def _pad(self, align: int) -> None:
        self._image += bytes(-len(self._image) % align)


class _Strings:
    """A table of strings, each of which stands in it once."""

    def __init__(self) -> None:
        self._table = bytearray(b"\0")
        self._places: dict[str, int] = {"": 0}

    def add(self, text: str) -> int:
        if text not in self._places:
            self._places[text] = len(self._table)
            self._table += text.encode() + b"\0"
        return self._places[text]

    @property
    def data(self) -> bytes:
        return bytes(self._table)


def _string_section(name: str, data: bytes) -> Section:
    return Section(name, SHT_STRTAB, 0, data, len(data), 1)


def _addend(relocation: Relocation) -> Sequence[int]:
    return () if relocation.addend is None else (relocation.addend,)


def _section_number(section: int | None) -> int:
    if section is None:
        return SHN_UNDEF
    return section if section >= SHN_RESERVED else section + 1
