"""Several object files made one, in which nothing but what callers need has a global name.

What `ld -r` and `objcopy --localize-symbol` do: references between the objects are bound, sections
that nothing reaches are left out (debugging information and unwind tables, which C functions do
without, among them), and symbols become local. So any number of exported libraries link into one
program.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qpc.backends.deploy.elf import (
    SHF_ALLOC,
    SHF_EXEC,
    SHF_WRITE,
    SHN_RESERVED,
    SHT_NOBITS,
    SHT_PROGBITS,
    STB_GLOBAL,
    STB_LOCAL,
    STB_WEAK,
    STT_FILE,
    STT_OBJECT,
    STT_SECTION,
    STV_DEFAULT,
    Object,
    Section,
    Symbol,
)
from qpc.errors import BackendError

_ATTRIBUTES = (".ARM.attributes", ".riscv.attributes", ".note.GNU-stack")
"""What linkers want to know of a file as a whole."""

_RELOCATED = ".data.rel.ro"
"""Constants that hold addresses, and are written once, when these are known."""


@dataclass(frozen=True)
class Merged:
    """An object, and what of it is in memory, in bytes.

    needed: the functions that others must have.
    """

    made: Object
    code: int
    constants: int
    needed: tuple[str, ...]


def merge(objects: Sequence[Object], exported: Collection[str]) -> Merged:
    """One object with all that the exported symbols reach.

    Raises BackendError for objects that do not fit together, for symbols that are defined twice or
    not at all, and for memory that would change while the code runs.
    """
    return _Merger(_joined(objects), exported).merged()


def constants(like: Object, tensors: Mapping[str, bytes], align: int) -> Object:
    """An object of the same kind that holds constants under hidden names."""
    sections = [
        Section(f".rodata.{name}", SHT_PROGBITS, SHF_ALLOC, data, len(data), align)
        for name, data in tensors.items()
    ]
    symbols = [_no_symbol()]
    for number, (name, data) in enumerate(tensors.items()):
        symbols.append(Symbol(name, STB_GLOBAL, STT_OBJECT, STV_DEFAULT, number, 0, len(data)))
    return Object(like.layout, like.machine, like.flags, sections, symbols)


def _no_symbol() -> Symbol:
    return Symbol("", STB_LOCAL, 0, STV_DEFAULT, None, 0, 0)


def _joined(objects: Sequence[Object]) -> Object:
    """All sections and symbols in one object, numbered anew."""
    first = objects[0]
    whole = Object(first.layout, first.machine, first.flags, [], [])
    for part in objects:
        if (part.layout, part.machine, part.flags) != (first.layout, first.machine, first.flags):
            raise BackendError(
                "object files are for different machines or calling conventions: "
                f"{part.machine} with flags {part.flags:#x}, {first.machine} with {first.flags:#x}"
            )
        sections, symbols = len(whole.sections), len(whole.symbols)
        for section in part.sections:
            moved = [replace(r, symbol=r.symbol + symbols) for r in section.relocations]
            after = None if section.after is None else section.after + sections
            whole.sections.append(replace(section, relocations=moved, after=after))
        for symbol in part.symbols:
            if symbol.section is not None and symbol.section < SHN_RESERVED:
                symbol = replace(symbol, section=symbol.section + sections)
            whole.symbols.append(symbol)
    return whole


@dataclass
class _Merger:
    whole: Object
    exported: Collection[str]
    meant: dict[str, int] = field(default_factory=dict)  # by name, the symbol that is meant

    def merged(self) -> Merged:
        self._find_definitions()
        kept = self._reached()
        sections = [self.whole.sections[i] for i in kept]
        for section in sections:
            constant = section.name.startswith(_RELOCATED)
            if section.flags & SHF_WRITE and section.size and not constant:
                raise BackendError(
                    f"the library would have memory that changes: section {section.name!r}"
                )
        numbers = {old: new for new, old in enumerate(kept)}
        made = self._renumbered(sections, numbers)
        code = sum(s.size for s in sections if s.flags & SHF_EXEC)
        loaded = sum(s.size for s in sections if s.is_loaded)
        needed = sorted(s.name for s in made.symbols if s.section is None and s.name)
        return Merged(made, code, loaded - code, tuple(needed))

    def _find_definitions(self) -> None:
        """A definition, rather a strong one, or else the first mention of what others have."""
        found: dict[str, list[int]] = {}
        for number, symbol in enumerate(self.whole.symbols):
            if symbol.binding != STB_LOCAL:
                found.setdefault(symbol.name, []).append(number)
        for name, numbers in found.items():
            defined = [n for n in numbers if self.whole.symbols[n].section is not None]
            strong = [n for n in defined if self.whole.symbols[n].binding != STB_WEAK]
            if len(strong) > 1:
                raise BackendError(f"two object files define {name!r}")
            self.meant[name] = (strong or defined or numbers)[0]
        for name in self.exported:
            at = self.meant.get(name)
            if at is None or self.whole.symbols[at].section is None:
                raise BackendError(f"no object file defines {name!r}")

    def _target(self, symbol: int) -> int:
        found = self.whole.symbols[symbol]
        return symbol if found.binding == STB_LOCAL else self.meant[found.name]

    def _reached(self) -> list[int]:
        """Sections that the exported symbols need, in their order."""
        waiting = [self._section_of(self.meant[name]) for name in self.exported]
        found: set[int] = set()
        while waiting:
            number = waiting.pop()
            if number is None or number in found:
                continue
            found.add(number)
            relocations = self.whole.sections[number].relocations
            waiting += [self._section_of(self._target(r.symbol)) for r in relocations]
        seen: set[str] = set()
        for number, section in enumerate(self.whole.sections):
            if section.name in _ATTRIBUTES and section.name not in seen:
                seen.add(section.name)
                found.add(number)
        return sorted(found)

    def _section_of(self, symbol: int) -> int | None:
        section = self.whole.symbols[symbol].section
        return section if section is not None and section < SHN_RESERVED else None

    def _renumbered(self, sections: Sequence[Section], numbers: Mapping[int, int]) -> Object:
        wanted = list(self._wanted_symbols(sections, numbers))
        local = [n for n in wanted if self._becomes_local(n)]
        order = [*local, *(n for n in wanted if not self._becomes_local(n))]
        places = {old: new for new, old in enumerate(order, 1)}
        symbols = [_no_symbol(), *(self._final(n, numbers) for n in order)]
        names = _NewNames(self.whole.symbols, numbers)
        made = [
            replace(
                section,
                name=names.of(new, section),
                after=None if section.after is None else numbers.get(section.after),
                relocations=[
                    replace(r, symbol=places.get(self._target(r.symbol), 0))
                    for r in section.relocations
                ],
            )
            for new, section in enumerate(sections)
        ]
        return Object(self.whole.layout, self.whole.machine, self.whole.flags, made, symbols)

    def _wanted_symbols(
        self, sections: Sequence[Section], numbers: Mapping[int, int]
    ) -> Iterator[int]:
        """Symbols that something refers to, and local ones that say what is code and what data."""
        referred = {self._target(r.symbol) for s in sections for r in s.relocations}
        for number, symbol in enumerate(self.whole.symbols):
            inside = self._section_of(number) in numbers
            if symbol.kind == STT_FILE:
                continue
            marks = inside and symbol.binding == STB_LOCAL and symbol.kind != STT_SECTION
            is_meant = symbol.binding != STB_LOCAL and self.meant[symbol.name] == number
            marks = marks and bool(symbol.name) and not symbol.name.startswith(".L")
            if marks or number in referred or (is_meant and inside):
                yield number

    def _becomes_local(self, number: int) -> bool:
        symbol = self.whole.symbols[number]
        return symbol.section is not None and symbol.name not in self.exported

    def _final(self, number: int, numbers: Mapping[int, int]) -> Symbol:
        symbol = self.whole.symbols[number]
        at = self._section_of(number)
        section = symbol.section if at is None else numbers[at]
        binding = STB_LOCAL if self._becomes_local(number) else STB_GLOBAL
        return replace(symbol, section=section, binding=binding, visibility=STV_DEFAULT)


class _NewNames:
    """Names of sections by the function or constant in them, as linkers print them in maps."""

    def __init__(self, symbols: Sequence[Symbol], numbers: Mapping[int, int]) -> None:
        self._first: dict[int, str] = {}
        for symbol in symbols:
            at = None if symbol.section is None else numbers.get(symbol.section)
            if at is not None and symbol.binding != STB_LOCAL:
                self._first.setdefault(at, symbol.name)

    def of(self, number: int, section: Section) -> str:
        name = self._first.get(number)
        plain = section.name in (".text", ".rodata") and section.kind != SHT_NOBITS
        return f"{section.name}.{name}" if name and plain else section.name
