"""Static libraries: archives in the format of GNU `ar`, with an index of symbols.

Dates and owners are zero, so that the same objects always make the same file.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from qpc.backends.deploy.elf import STB_LOCAL, Object, write

_MAGIC = b"!<arch>\n"
_HEADER = "{name:<16}{date:<12}{owner:<6}{group:<6}{mode:<8}{size:<10}`\n"
_SHORT = 15  # characters of a name that stands in its header, with the "/" that ends it 16


def archive(members: Mapping[str, Object]) -> bytes:
    """The static library of some objects, by the names of their files."""
    files = {name: write(made) for name, made in members.items()}
    symbols = [
        (symbol.name, number)
        for number, made in enumerate(members.values())
        for symbol in made.symbols
        if symbol.section is not None and symbol.binding != STB_LOCAL
    ]
    long_names = "".join(f"{name}/\n" for name in files if len(name) > _SHORT).encode()
    names = b"".join(name.encode() + b"\0" for name, _ in symbols)
    index_size = 4 + 4 * len(symbols) + len(names)
    at = len(_MAGIC) + _padded(index_size) + (_padded(len(long_names)) if long_names else 0)
    places = []
    for data in files.values():
        places.append(at)
        at += _padded(len(data))
    offsets = [places[number] for _, number in symbols]
    index = struct.pack(f">I{len(symbols)}I", len(symbols), *offsets) + names
    parts = [_MAGIC, _member("/", index)]
    if long_names:
        parts.append(_member("//", long_names))
    for name, data in files.items():
        short = f"{name}/" if len(name) <= _SHORT else f"/{long_names.index(f'{name}/'.encode())}"
        parts.append(_member(short, data))
    return b"".join(parts)


def _member(name: str, data: bytes) -> bytes:
    header = _HEADER.format(name=name, date=0, owner=0, group=0, mode="100644", size=len(data))
    return header.encode() + data + b"\n" * (len(data) % 2)


def _padded(size: int) -> int:
    """Bytes of a member with its header, each of which begins at an even place."""
    return 60 + size + size % 2
