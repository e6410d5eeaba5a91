"""Link relocatable objects into a shared library, without a linker.

LLVM emits object files (`.o`); only a shared library can be loaded. Users of QPC have Python but
no compiler, so this module does the little that `ld -shared` would do for a few self-contained
objects: lay out their sections, resolve the relocations between them, and describe to the dynamic
loader the functions it exports and the few (`memset`, `expf`) that it imports.

Layout of the result: file offset = address, four page-aligned segments.

    read            ELF header, program headers, dynamic symbols, hash table, dynamic relocations
    read, execute   code sections, then one jump stub per imported function
    read            constants
    read, write     global offset table, dynamic section, data, zero-initialised data

What differs from machine to machine stands in `machines.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from qpc.backends.tvm.codegen.elf_format import (
    DF_BIND_NOW,
    DT_FLAGS,
    DT_HASH,
    DT_NEEDED,
    DT_RELA,
    DT_RELAENT,
    DT_RELASZ,
    DT_SONAME,
    DT_STRSZ,
    DT_STRTAB,
    DT_SYMENT,
    DT_SYMTAB,
    EHDR,
    ET_DYN,
    IDENTITY,
    PF_R,
    PF_W,
    PF_X,
    PHDR,
    PT_DYNAMIC,
    PT_GNU_STACK,
    PT_LOAD,
    RELA,
    SHF_EXEC,
    SHF_WRITE,
    SHN_ABS,
    SHN_COMMON,
    SHT_NOBITS,
    STB_LOCAL,
    SYM,
    ObjectFile,
    Relocation,
    Section,
    Symbol,
    is_kept,
    parse,
)
from qpc.backends.tvm.codegen.machines import MACHINES, Machine, Reference
from qpc.errors import BackendError
from qpc.targets.data import LINUX_LIBRARIES


def link_shared(
    objects: Sequence[bytes],
    name: str,
    machine: Machine = MACHINES["x86_64"],
    libraries: Sequence[str] = LINUX_LIBRARIES,
) -> bytes:
    """The shared library made from object files for a machine; `name` becomes its SONAME.

    libraries: those of the system that it needs. Where several objects define the same
    symbol, all mean the first definition.
    """
    whole = _merged([parse(raw, machine.number, machine.name) for raw in objects])
    needed = [library.encode() for library in libraries]
    return _Linker(whole, name.encode(), machine, needed).link()


def _merged(objects: Sequence[ObjectFile]) -> ObjectFile:
    """One object with everything in it; what one object defines, the others find."""
    whole = ObjectFile([], [], [])
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
        if whole.symbols[r.symbol].binding != STB_LOCAL
        else r
        for r in whole.relocations
    ]
    return whole


def _moved(symbol: Symbol, by: int) -> Symbol:
    """The symbol after its object's sections were numbered anew."""
    if symbol.undefined or symbol.section in (SHN_ABS, SHN_COMMON):
        return symbol
    return replace(symbol, section=symbol.section + by)


@dataclass
class _Linker:
    obj: ObjectFile
    soname: bytes
    machine: Machine
    libraries: Sequence[bytes]
    got: dict[int, int] = field(default_factory=dict)  # symbol index -> slot
    stubs: dict[int, int] = field(default_factory=dict)  # symbol index -> stub
    absolute: list[Relocation] = field(default_factory=list)
    strings: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    dynamic_relocations: bytearray = field(default_factory=bytearray)

    def link(self) -> bytes:
        self._collect_references()
        self._choose_dynamic_symbols()
        names = [self._string(s) for s in (*self.libraries, self.soname)]
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
            wanted = self.machine.classify(relocation.kind)
            if wanted is Reference.SLOT:
                self.got.setdefault(relocation.symbol, len(self.got))
            elif wanted is Reference.CODE and symbol.undefined:
                self.got.setdefault(relocation.symbol, len(self.got))
                self.stubs.setdefault(relocation.symbol, len(self.stubs))
            elif wanted is Reference.ADDRESS:
                self.absolute.append(relocation)

    def _choose_dynamic_symbols(self) -> None:
        """Imports that something refers to, and every global definition."""
        used = set(self.got) | {r.symbol for r in self.absolute}
        self.exported = [
            i
            for i, s in enumerate(self.obj.symbols)
            if s.binding != STB_LOCAL and s.name and (i in used if s.undefined else True)
        ]
        self.dynamic_index = {symbol: i + 1 for i, symbol in enumerate(self.exported)}

    def _string(self, text: bytes) -> int:
        at = len(self.strings)
        self.strings += text + b"\0"
        return at

    # --- layout ----------------------------------------------------------------------------------

    def _lay_out(self) -> bytearray:
        at = 64 + 6 * PHDR.size
        self.symtab_at = at
        self.hash_at = at = _align(at + (len(self.exported) + 1) * SYM.size, 8)
        at += 4 * (2 + 1 + len(self.exported) + 1)
        self.rela_at = at = _align(at, 8)
        at += (len(self.got) + len(self.absolute)) * RELA.size
        self.strings_at = at
        at += len(self.strings)
        self.segments = [(0, at, at, PF_R)]

        text = at = _align(at, self.machine.page)
        at = self._place(at, lambda s: bool(s.flags & SHF_EXEC))
        self.stubs_at = at = _align(at, self.machine.stub_size)
        at += len(self.stubs) * self.machine.stub_size
        self.segments.append((text, at - text, at - text, PF_R | PF_X))

        constants = at = _align(at, self.machine.page)
        at = self._place(at, lambda s: not s.flags & (SHF_EXEC | SHF_WRITE))
        self.segments.append((constants, at - constants, at - constants, PF_R))

        data = at = _align(at, self.machine.page)
        self.got_at = at
        at += len(self.got) * 8
        self.dynamic_at = at
        at += 16 * (len(self.libraries) + 11)
        at = self._place(at, lambda s: bool(s.flags & SHF_WRITE) and s.kind != SHT_NOBITS)
        file_end = at
        at = self._place(at, lambda s: bool(s.flags & SHF_WRITE) and s.kind == SHT_NOBITS)
        self.segments.append((data, file_end - data, at - data, PF_R | PF_W))

        image = bytearray(file_end)
        for section in self.obj.sections:
            if is_kept(section):
                self._put(image, section.address, section.data)
        return image

    def _place(self, at: int, wanted: Callable[[Section], bool]) -> int:
        for section in self.obj.sections:
            if is_kept(section) and wanted(section):
                section.address = at = _align(at, section.align)
                at += section.size
        return at

    # --- relocation ------------------------------------------------------------------------------

    def _relocate(self, image: bytearray) -> None:
        for symbol, slot in self.got.items():
            at = self.got_at + slot * 8
            if self.obj.symbols[symbol].undefined:
                self._import(at, symbol, self.machine.filled_slot, 0)
            else:
                self._relative(image, at, self._address(symbol))
        for symbol, index in self.stubs.items():
            at = self.stubs_at + index * self.machine.stub_size
            self._put(image, at, self.machine.stub(at, self.got_at + self.got[symbol] * 8))
        for relocation in self.obj.relocations:
            self._apply(image, relocation)

    def _apply(self, image: bytearray, relocation: Relocation) -> None:
        kind, symbol, addend = relocation.kind, relocation.symbol, relocation.addend
        place = self.obj.sections[relocation.section].address + relocation.offset
        defined = not self.obj.symbols[symbol].undefined
        wanted = self.machine.classify(kind)
        if wanted is Reference.SLOT:
            slot = self.got_at + self.got[symbol] * 8
            self.machine.apply(image, kind, place, slot + addend)
        elif wanted is Reference.CODE:
            self.machine.apply(image, kind, place, self._callable_address(symbol) + addend)
        elif wanted is Reference.DATA and defined:
            self.machine.apply(image, kind, place, self._address(symbol) + addend)
        elif wanted is Reference.ADDRESS and defined:
            self._relative(image, place, self._address(symbol) + addend)
        elif wanted is Reference.ADDRESS:
            self._import(place, symbol, self.machine.absolute, addend)
        else:
            name = self.obj.symbols[symbol].name.decode()
            raise BackendError(f"cannot link: relocation type {kind} for {name!r} is not known")

    def _callable_address(self, symbol: int) -> int:
        if symbol in self.stubs:
            return self.stubs_at + self.stubs[symbol] * self.machine.stub_size
        return self._address(symbol)

    def _address(self, symbol: int) -> int:
        found = self.obj.symbols[symbol]
        if found.section in (SHN_ABS, SHN_COMMON) or found.section >= len(self.obj.sections):
            raise BackendError(f"cannot link: symbol {found.name.decode()!r} has no section")
        return self.obj.sections[found.section].address + found.value

    def _relative(self, image: bytearray, at: int, value: int) -> None:
        struct.pack_into("<Q", image, at, value)
        self.dynamic_relocations += RELA.pack(at, self.machine.relative, value)

    def _import(self, at: int, symbol: int, kind: int, addend: int) -> None:
        self.dynamic_relocations += RELA.pack(at, self.dynamic_index[symbol] << 32 | kind, addend)

    # --- tables for the dynamic loader ------------------------------------------------------------

    def _symbol_table(self, names: list[int]) -> bytes:
        table = bytearray(SYM.size)
        for name, index in zip(names, self.exported, strict=True):
            s = self.obj.symbols[index]
            # The loader only tests whether the section index is zero, so any other number will do.
            section, value = (0, 0) if s.undefined else (1, self._address(index))
            table += SYM.pack(name, s.binding << 4 | s.kind, 0, section, value, s.size)
        return bytes(table)

    def _hash_table(self) -> bytes:
        """One bucket: a chain through all symbols. They are few and looked up once."""
        count = len(self.exported) + 1
        chain = [0, *(i + 1 if i + 1 < count else 0 for i in range(1, count))]
        return struct.pack(f"<{3 + count}I", 1, count, 1 if count > 1 else 0, *chain)

    def _dynamic_section(self, names: list[int]) -> bytes:
        *needed, soname = names
        entries = [(DT_NEEDED, n) for n in needed]
        entries += [
            (DT_SONAME, soname),
            (DT_HASH, self.hash_at),
            (DT_STRTAB, self.strings_at),
            (DT_SYMTAB, self.symtab_at),
            (DT_STRSZ, len(self.strings)),
            (DT_SYMENT, SYM.size),
            (DT_RELA, self.rela_at),
            (DT_RELASZ, len(self.dynamic_relocations)),
            (DT_RELAENT, RELA.size),
            (DT_FLAGS, DF_BIND_NOW),
            (0, 0),
        ]
        self.dynamic_size = 16 * len(entries)
        return b"".join(struct.pack("<QQ", tag, value) for tag, value in entries)

    def _headers(self) -> bytes:
        rows = [
            PHDR.pack(PT_LOAD, flags, at, at, at, size, memory, self.machine.page)
            for at, size, memory, flags in self.segments
        ]
        rw = PF_R | PF_W
        at, size = self.dynamic_at, self.dynamic_size
        rows.append(PHDR.pack(PT_DYNAMIC, rw, at, at, at, size, size, 8))
        rows.append(PHDR.pack(PT_GNU_STACK, rw, 0, 0, 0, 0, 0, 16))
        counts = (64, PHDR.size, len(rows), 0, 0, 0)
        return EHDR.pack(IDENTITY, ET_DYN, self.machine.number, 1, 0, 64, 0, 0, *counts) + b"".join(
            rows
        )

    @staticmethod
    def _put(image: bytearray, at: int, data: bytes) -> None:
        image[at : at + len(data)] = data


def _align(at: int, to: int) -> int:
    return -(-at // to) * to
