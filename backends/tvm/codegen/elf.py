"""Link relocatable x86-64 objects into a shared library, without a linker.

LLVM emits object files (`.o`); only a shared library can be loaded. Users of QPC have Python but
no compiler, so this module does the little that `ld -shared` would do for a few self-contained
objects: lay out their sections, resolve the relocations between them, and describe to the dynamic
loader the functions it exports and the few (`memset`, `expf`, TVM's error function) that it
imports.

Layout of the result: file offset = address, four page-aligned segments.

    read            ELF header, program headers, dynamic symbols, hash table, dynamic relocations
    read, execute   code sections, then one jump stub per imported function
    read            constants
    read, write     global offset table, dynamic section, data, zero-initialised data

Terms are those of the System V ABI and its AMD64 supplement: S symbol value, A addend, P place, G
address of the symbol's slot in the global offset table.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from qpc.errors import BackendError

_PAGE = 0x1000
_NEEDED = (b"libtvm_ffi.so", b"libm.so.6", b"libc.so.6")

# Section types and flags, symbol binding, dynamic tags: names of <elf.h>.
_SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS = 2, 4, 8
_SHF_WRITE, _SHF_ALLOC, _SHF_EXEC = 1, 2, 4
_STB_LOCAL, _STB_WEAK, _STT_SECTION = 0, 2, 3
_SHN_UNDEF, _SHN_ABS, _SHN_COMMON = 0, 0xFFF1, 0xFFF2
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_PF_X, _PF_W, _PF_R = 1, 2, 4
_DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_RELA = 1, 4, 5, 6, 7
_DT_RELASZ, _DT_RELAENT, _DT_STRSZ, _DT_SYMENT, _DT_SONAME, _DT_FLAGS = 8, 9, 10, 11, 14, 30
_DF_BIND_NOW = 8
_R_64, _R_PC32, _R_PLT32, _R_GLOB_DAT, _R_RELATIVE, _R_PC64 = 1, 2, 4, 6, 8, 24
_R_GOTPCREL = (9, 41, 42)  # plain, GOTPCRELX, REX_GOTPCRELX

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_JUMP_STUB = b"\xff\x25"  # jmp *disp32(%rip)
_STUB_SIZE = 8


@dataclass
class _Section:
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
class _Symbol:
    name: bytes
    binding: int
    kind: int
    section: int
    value: int
    size: int

    @property
    def undefined(self) -> bool:
        return self.section == _SHN_UNDEF

    @property
    def is_shared(self) -> bool:
        """Whether other objects may define it or refer to it."""
        return self.binding != _STB_LOCAL and bool(self.name)


@dataclass(frozen=True)
class _Relocation:
    section: int
    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass
class _Object:
    sections: list[_Section]
    symbols: list[_Symbol]
    relocations: list[_Relocation]


def link_shared(objects: Sequence[bytes], name: str) -> bytes:
    """The shared library made from x86-64 object files; `name` becomes its SONAME.

    Where several objects define the same symbol, all mean the first definition.
    """
    return _Linker(_merged([_parse(raw) for raw in objects]), name.encode()).link()


def _merged(objects: Sequence[_Object]) -> _Object:
    """One object with everything in it; what one object defines, the others find."""
    whole = _Object([], [], [])
    for part in objects:
        first_section, first_symbol = len(whole.sections), len(whole.symbols)
        whole.sections += part.sections
        whole.symbols += [_moved(symbol, first_section) for symbol in part.symbols]
        whole.relocations += [
            replace(r, section=r.section + first_section, symbol=r.symbol + first_symbol)
            for r in part.relocations
        ]
    # A definition, or else the first mention of what has to be imported.
    meant: dict[bytes, int] = {}
    for wanted in (False, True):
        for i, symbol in enumerate(whole.symbols):
            if symbol.is_shared and symbol.undefined == wanted:
                meant.setdefault(symbol.name, i)
    for i, symbol in enumerate(whole.symbols):
        if symbol.is_shared and meant[symbol.name] != i:
            whole.symbols[i] = replace(symbol, name=b"")  # not exported
    names = [symbol.name for part in objects for symbol in part.symbols]
    whole.relocations = [
        replace(r, symbol=meant.get(names[r.symbol], r.symbol))
        if whole.symbols[r.symbol].binding != _STB_LOCAL
        else r
        for r in whole.relocations
    ]
    return whole


def _moved(symbol: _Symbol, by: int) -> _Symbol:
    """The symbol after its object's sections were numbered anew."""
    if symbol.undefined or symbol.section in (_SHN_ABS, _SHN_COMMON):
        return symbol
    return replace(symbol, section=symbol.section + by)


def _parse(raw: bytes) -> _Object:
    if raw[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<HH", raw, 16) != (1, 62):
        raise BackendError("cannot link: the compiler did not emit an x86-64 object file")
    header = _EHDR.unpack_from(raw)
    offset, count, names_index = header[6], header[12], header[13]
    rows = [_SHDR.unpack_from(raw, offset + i * _SHDR.size) for i in range(count)]
    names = raw[rows[names_index][4] :]
    sections = []
    for name, kind, flags, _, at, size, link, target, align, _ in rows:
        data = b"" if kind == _SHT_NOBITS else raw[at : at + size]
        text = names[name : names.index(b"\0", name)].decode()
        sections.append(_Section(text, kind, flags, data, size, max(align, 1), link, target))
    return _Object(sections, _parse_symbols(sections), _parse_relocations(sections))


def _parse_symbols(sections: list[_Section]) -> list[_Symbol]:
    symbols = []
    for table in (s for s in sections if s.kind == _SHT_SYMTAB):
        strings = sections[table.link].data
        for name, info, _, section, value, size in _SYM.iter_unpack(table.data):
            text = strings[name : strings.index(b"\0", name)]
            symbols.append(_Symbol(text, info >> 4, info & 15, section, value, size))
    return symbols


def _parse_relocations(sections: list[_Section]) -> list[_Relocation]:
    found = []
    for table in sections:
        if table.kind != _SHT_RELA or not _is_kept(sections[table.target]):
            continue
        for offset, info, addend in _RELA.iter_unpack(table.data):
            found.append(_Relocation(table.target, offset, info & 0xFFFFFFFF, info >> 32, addend))
    return found


def _is_kept(section: _Section) -> bool:
    """Sections that are in memory at run time; unwind tables are not needed by C functions."""
    return bool(section.flags & _SHF_ALLOC) and section.name != ".eh_frame"


@dataclass
class _Linker:
    obj: _Object
    soname: bytes
    got: dict[int, int] = field(default_factory=dict)  # symbol index -> slot
    stubs: dict[int, int] = field(default_factory=dict)  # symbol index -> stub
    strings: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    dynamic_relocations: bytearray = field(default_factory=bytearray)

    def link(self) -> bytes:
        self._collect_references()
        self._choose_dynamic_symbols()
        names = [self._string(s) for s in (*_NEEDED, self.soname)]
        symbol_names = [self._string(self.obj.symbols[i].name) for i in self.exported]
        image = self._lay_out()
        self._relocate(image)
        self._put(image, self.symtab_at, self._symbol_table(symbol_names))
        self._put(image, self.hash_at, self._hash_table())
        self._put(image, self.strings_at, bytes(self.strings))
        self._put(image, self.rela_at, bytes(self.dynamic_relocations))
        self._put(image, self.dynamic_at, self._dynamic_section(names))
        self._put(image, 0, self._headers())
        return bytes(image)

    # --- what is needed --------------------------------------------------------------------------

    def _collect_references(self) -> None:
        for relocation in self.obj.relocations:
            symbol = self.obj.symbols[relocation.symbol]
            if relocation.kind in _R_GOTPCREL:
                self.got.setdefault(relocation.symbol, len(self.got))
            elif relocation.kind in (_R_PC32, _R_PLT32) and symbol.undefined:
                self.got.setdefault(relocation.symbol, len(self.got))
                self.stubs.setdefault(relocation.symbol, len(self.stubs))
        self.absolute = [r for r in self.obj.relocations if r.kind == _R_64]

    def _choose_dynamic_symbols(self) -> None:
        """Imports that something refers to, and every global definition."""
        used = set(self.got) | {r.symbol for r in self.absolute}
        self.exported = [
            i
            for i, s in enumerate(self.obj.symbols)
            if s.binding != _STB_LOCAL and s.name and (i in used if s.undefined else True)
        ]
        self.dynamic_index = {symbol: i + 1 for i, symbol in enumerate(self.exported)}

    def _string(self, text: bytes) -> int:
        at = len(self.strings)
        self.strings += text + b"\0"
        return at

    # --- layout ----------------------------------------------------------------------------------

    def _lay_out(self) -> bytearray:
        at = 64 + 6 * _PHDR.size
        self.symtab_at = at
        self.hash_at = at = _align(at + (len(self.exported) + 1) * _SYM.size, 8)
        at += 4 * (2 + 1 + len(self.exported) + 1)
        self.rela_at = at = _align(at, 8)
        at += (len(self.got) + len(self.absolute)) * _RELA.size
        self.strings_at = at
        at += len(self.strings)
        self.segments = [(0, at, at, _PF_R)]

        text = at = _align(at, _PAGE)
        at = self._place(at, lambda s: bool(s.flags & _SHF_EXEC))
        self.stubs_at = at = _align(at, _STUB_SIZE)
        at += len(self.stubs) * _STUB_SIZE
        self.segments.append((text, at - text, at - text, _PF_R | _PF_X))

        constants = at = _align(at, _PAGE)
        at = self._place(at, lambda s: not s.flags & (_SHF_EXEC | _SHF_WRITE))
        self.segments.append((constants, at - constants, at - constants, _PF_R))

        data = at = _align(at, _PAGE)
        self.got_at = at
        at += len(self.got) * 8
        self.dynamic_at = at
        at += 16 * (len(_NEEDED) + 11)
        at = self._place(at, lambda s: bool(s.flags & _SHF_WRITE) and s.kind != _SHT_NOBITS)
        file_end = at
        at = self._place(at, lambda s: bool(s.flags & _SHF_WRITE) and s.kind == _SHT_NOBITS)
        self.segments.append((data, file_end - data, at - data, _PF_R | _PF_W))

        image = bytearray(file_end)
        for section in self.obj.sections:
            if _is_kept(section):
                self._put(image, section.address, section.data)
        return image

    def _place(self, at: int, wanted: object) -> int:
        assert callable(wanted)
        for section in self.obj.sections:
            if _is_kept(section) and wanted(section):
                section.address = at = _align(at, section.align)
                at += section.size
        return at

    # --- relocation ------------------------------------------------------------------------------

    def _relocate(self, image: bytearray) -> None:
        for symbol, slot in self.got.items():
            at = self.got_at + slot * 8
            if self.obj.symbols[symbol].undefined:
                self._import(at, symbol, _R_GLOB_DAT, 0)
            else:
                self._relative(image, at, self._address(symbol))
        for symbol, index in self.stubs.items():
            at = self.stubs_at + index * _STUB_SIZE
            jump = self.got_at + self.got[symbol] * 8 - (at + 6)
            self._put(image, at, _JUMP_STUB + struct.pack("<i", jump) + b"\x90\x90")
        for relocation in self.obj.relocations:
            self._apply(image, relocation)

    def _apply(self, image: bytearray, relocation: _Relocation) -> None:
        kind, symbol, addend = relocation.kind, relocation.symbol, relocation.addend
        place = self.obj.sections[relocation.section].address + relocation.offset
        if kind in _R_GOTPCREL:
            slot = self.got_at + self.got[symbol] * 8
            struct.pack_into("<i", image, place, slot + addend - place)
        elif kind in (_R_PC32, _R_PLT32):
            target = self._callable_address(symbol)
            struct.pack_into("<i", image, place, target + addend - place)
        elif kind == _R_PC64 and not self.obj.symbols[symbol].undefined:
            struct.pack_into("<q", image, place, self._address(symbol) + addend - place)
        elif kind == _R_64:
            if self.obj.symbols[symbol].undefined:
                self._import(place, symbol, _R_64, addend)
            else:
                self._relative(image, place, self._address(symbol) + addend)
        else:
            name = self.obj.symbols[symbol].name.decode()
            raise BackendError(f"cannot link: relocation type {kind} for {name!r} is not known")

    def _callable_address(self, symbol: int) -> int:
        if symbol in self.stubs:
            return self.stubs_at + self.stubs[symbol] * _STUB_SIZE
        return self._address(symbol)

    def _address(self, symbol: int) -> int:
        found = self.obj.symbols[symbol]
        if found.section in (_SHN_ABS, _SHN_COMMON) or found.section >= len(self.obj.sections):
            raise BackendError(f"cannot link: symbol {found.name.decode()!r} has no section")
        return self.obj.sections[found.section].address + found.value

    def _relative(self, image: bytearray, at: int, value: int) -> None:
        struct.pack_into("<Q", image, at, value)
        self.dynamic_relocations += _RELA.pack(at, _R_RELATIVE, value)

    def _import(self, at: int, symbol: int, kind: int, addend: int) -> None:
        self.dynamic_relocations += _RELA.pack(at, self.dynamic_index[symbol] << 32 | kind, addend)

    # --- tables for the dynamic loader ------------------------------------------------------------

    def _symbol_table(self, names: list[int]) -> bytes:
        table = bytearray(_SYM.size)
        for name, index in zip(names, self.exported, strict=True):
            s = self.obj.symbols[index]
            # The loader only tests whether the section index is zero, so any other number will do.
            section, value = (0, 0) if s.undefined else (1, self._address(index))
            table += _SYM.pack(name, s.binding << 4 | s.kind, 0, section, value, s.size)
        return bytes(table)

    def _hash_table(self) -> bytes:
        """One bucket: a chain through all symbols. They are few and looked up once."""
        count = len(self.exported) + 1
        chain = [0, *(i + 1 if i + 1 < count else 0 for i in range(1, count))]
        return struct.pack(f"<{3 + count}I", 1, count, 1 if count > 1 else 0, *chain)

    def _dynamic_section(self, names: list[int]) -> bytes:
        *needed, soname = names
        entries = [(_DT_NEEDED, n) for n in needed]
        entries += [
            (_DT_SONAME, soname),
            (_DT_HASH, self.hash_at),
            (_DT_STRTAB, self.strings_at),
            (_DT_SYMTAB, self.symtab_at),
            (_DT_STRSZ, len(self.strings)),
            (_DT_SYMENT, _SYM.size),
            (_DT_RELA, self.rela_at),
            (_DT_RELASZ, len(self.dynamic_relocations)),
            (_DT_RELAENT, _RELA.size),
            (_DT_FLAGS, _DF_BIND_NOW),
            (0, 0),
        ]
        self.dynamic_size = 16 * len(entries)
        return b"".join(struct.pack("<QQ", tag, value) for tag, value in entries)

    def _headers(self) -> bytes:
        rows = [
            _PHDR.pack(_PT_LOAD, flags, at, at, at, size, memory, _PAGE)
            for at, size, memory, flags in self.segments
        ]
        rw = _PF_R | _PF_W
        at, size = self.dynamic_at, self.dynamic_size
        rows.append(_PHDR.pack(_PT_DYNAMIC, rw, at, at, at, size, size, 8))
        rows.append(_PHDR.pack(_PT_GNU_STACK, rw, 0, 0, 0, 0, 0, 16))
        ident = b"\x7fELF\x02\x01\x01" + bytes(9)
        counts = (64, _PHDR.size, len(rows), 0, 0, 0)
        return _EHDR.pack(ident, 3, 62, 1, 0, 64, 0, 0, *counts) + b"".join(rows)

    @staticmethod
    def _put(image: bytearray, at: int, data: bytes) -> None:
        image[at : at + len(data)] = data


def _align(at: int, to: int) -> int:
    return -(-at // to) * to
