from __future__ import annotations

import struct
from typing import ClassVar

import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

from qpc.backends import tvm
from qpc.backends.tvm.codegen.elf import _Linker
from qpc.backends.tvm.codegen.elf_format import (
    EHDR,
    ObjectFile,
    Relocation,
    Section,
    Symbol,
)
from qpc.backends.tvm.codegen.machines import MACHINES, X86_64, Machine, Reference
from qpc.errors import UnsupportedTargetError
from qpc.targets import TARGETS
from tests.generators import IntegerGraph


def test_machines_are_those_of_targets() -> None:
    assert {target.architecture.name for target in TARGETS} >= MACHINES.keys()


def test_code_for_a_machine_that_is_not_known_here_is_exported_instead() -> None:
    g = IntegerGraph()
    with pytest.raises(
        UnsupportedTargetError, match="'riscv64' can be exported, but not"
    ) as caught:
        tvm.compile_graph(g.module(g.linear(g.image(8), 4)), "riscv64")
    assert caught.value.fix is not None
    assert caught.value.fix.startswith("qpc.export_library(gm, target, folder, name=...)")


def test_x86_64_refers_to_memory_by_distances() -> None:
    machine, image = X86_64(), bytearray(16)
    assert machine.classify(2) is machine.classify(4) is Reference.CODE
    machine.apply(image, kind=2, place=4, value=100)
    machine.apply(image, kind=24, place=8, value=1)
    assert struct.unpack_from("<iq", image, 4) == (96, -7)
    assert machine.classify(99) is None


def test_a_stub_of_x86_64_jumps_to_what_the_slot_holds() -> None:
    code = X86_64().stub(at=0x1000, slot=0x3008)
    (distance,) = struct.unpack_from("<i", code, 2)
    assert (code[:2], 0x1006 + distance, len(code)) == (b"\xff\x25", 0x3008, X86_64.stub_size)


class Other:
    """A machine with pages of 64 KiB whose relocations and stubs are of other kinds."""

    name: ClassVar[str] = "other"
    number: ClassVar[int] = 183
    page: ClassVar[int] = 0x10000
    absolute: ClassVar[int] = 257
    filled_slot: ClassVar[int] = 1025
    relative: ClassVar[int] = 1027
    stub_size: ClassVar[int] = 16

    def classify(self, kind: int) -> Reference | None:
        return {257: Reference.ADDRESS, 283: Reference.CODE}.get(kind)

    def apply(self, image: bytearray, kind: int, place: int, value: int) -> None:
        struct.pack_into("<I", image, place, 0x94000000 | ((value - place) >> 2 & 0x3FFFFFF))

    def stub(self, at: int, slot: int) -> bytes:
        return struct.pack("<QQ", at, slot)


def test_the_format_takes_pages_stubs_and_relocations_from_the_machine() -> None:
    machine: Machine = Other()
    sections = [
        Section("", 0, 0, b"", 0, 1, 0, 0),
        Section(".text", 1, 6, bytes(8), 8, 4, 0, 0),
        Section(".data", 1, 3, bytes(8), 8, 8, 0, 0),
    ]
    symbols = [Symbol(b"run", 1, 2, 1, 0, 8), Symbol(b"malloc", 1, 0, 0, 0, 0)]
    relocations = [Relocation(1, 4, 283, 1, 0), Relocation(2, 0, 257, 0, 4)]
    linker = _Linker(ObjectFile(sections, symbols, relocations), b"other.so", machine, [b"libc"])
    image = linker.link()
    header = EHDR.unpack_from(image)
    assert header[2] == 183
    text, data = sections[1].address, sections[2].address
    assert text % 0x10000 == 0
    (call,) = struct.unpack_from("<I", image, text + 4)
    assert text + 4 + 4 * (call & 0x3FFFFFF) == linker.stubs_at
    assert image[linker.stubs_at :][:16] == machine.stub(linker.stubs_at, linker.got_at)
    assert struct.unpack_from("<Q", image, data) == (text + 4,)
