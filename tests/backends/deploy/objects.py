"""Object files written by hand: what compilers emit, in small."""

from __future__ import annotations

from qpc.backends.deploy import elf
from qpc.backends.deploy.elf import (
    SHF_ALLOC,
    SHF_EXEC,
    SHT_PROGBITS,
    STB_GLOBAL,
    STB_LOCAL,
    STB_WEAK,
    STV_DEFAULT,
    Layout,
    Object,
    Relocation,
    Section,
    Symbol,
)

WIDE, NARROW = elf._WIDE, elf._NARROW
_FUNCTION = 2


def function(name: str, *calls: str, binding: int = STB_GLOBAL) -> Object:
    """An object with one function that calls others, for x86-64."""
    data = b"\xe8\0\0\0\0" * len(calls) + b"\xc3"
    relocations = [Relocation(5 * i + 1, 4, i + 2, -4) for i in range(len(calls))]
    text = Section(
        ".text",
        SHT_PROGBITS,
        SHF_ALLOC | SHF_EXEC,
        data,
        len(data),
        16,
        0,
        None,
        relocations,
    )
    symbols = [
        no_symbol(),
        Symbol(name, binding, _FUNCTION, STV_DEFAULT, 0, 0, len(data)),
        *(Symbol(call, STB_GLOBAL, 0, STV_DEFAULT, None, 0, 0) for call in calls),
    ]
    return Object(WIDE, 62, 0, [text], symbols)


def made_object(layout: Layout) -> Object:
    """Code that refers to a constant, which a weak function shares."""
    addend = -4 if layout.wide else None
    relocations = [Relocation(1, 2, 2, addend), Relocation(6, 4, 4, addend)]
    text = Section(
        ".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXEC, b"\x90" * 12, 12, 4, 0, None, relocations
    )
    constant = Section(".rodata", SHT_PROGBITS, SHF_ALLOC, b"\1\2\3", 3, 1)
    symbols = [
        no_symbol(),
        Symbol("local", STB_LOCAL, _FUNCTION, STV_DEFAULT, 0, 4, 8),
        Symbol("constant", STB_LOCAL, 1, STV_DEFAULT, 1, 0, 3),
        Symbol("run", STB_GLOBAL, _FUNCTION, STV_DEFAULT, 0, 0, 12),
        Symbol("memcpy", STB_GLOBAL, 0, STV_DEFAULT, None, 0, 0),
        Symbol("spare", STB_WEAK, _FUNCTION, STV_DEFAULT, 0, 8, 4),
    ]
    return Object(layout, 62 if layout.wide else 40, 0x5000000, [text, constant], symbols)


def no_symbol() -> Symbol:
    """The first of every table."""
    return Symbol("", STB_LOCAL, 0, STV_DEFAULT, None, 0, 0)
