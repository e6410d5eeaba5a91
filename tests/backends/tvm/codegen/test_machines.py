from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

from qpc.backends import tvm
from qpc.backends.tvm.codegen.elf import _Linker, link_shared
from qpc.backends.tvm.codegen.elf_format import (
    EHDR,
    ObjectFile,
    Relocation,
    Section,
    Symbol,
)
from qpc.backends.tvm.codegen.machines import MACHINES, X86_64, AArch64, Machine, Reference
from qpc.backends.tvm.codegen.sharing import _object_file
from qpc.errors import BackendError, UnsupportedTargetError
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


def test_x86_64_knows_all_references_to_slots_whichever_a_compiler_may_take() -> None:
    assert {X86_64().classify(kind) for kind in (9, 41, 42)} == {Reference.SLOT}
    assert X86_64().classify(99) is None


def test_aarch64_fills_in_the_bits_of_instructions() -> None:
    machine = AArch64()
    for kind, word, value, wanted in [
        (283, 0x94000000, 0x10100, 0x94000040),  # bl: 64 instructions on
        (282, 0x14000000, 0xFFFC, 0x17FFFFFF),  # b: one back
        (275, 0x90000000, 0x13ABC, 0xF0000000),  # adrp x0: three pages on
        (311, 0x90000001, 0xF008, 0xF0FFFFE1),  # adrp x1: one page back
        (277, 0x91000000, 0x13ABC, 0x912AF000),  # add x0, x0, #0xabc
        (299, 0x3DC00000, 0x13AB0, 0x3DC2AC00),  # ldr q0, [x0, #0xab0]
        (312, 0xF9400021, 0xF008, 0xF9400421),  # ldr x1, [x1, #8]
    ]:
        image = bytearray(0x10004)
        struct.pack_into("<I", image, 0x10000, word)
        assert machine.classify(kind) is not None
        machine.apply(image, kind, 0x10000, value)
        assert f"{struct.unpack_from('<I', image, 0x10000)[0]:08x}" == f"{wanted:08x}"
    assert machine.classify(257) is Reference.ADDRESS
    assert machine.classify(261) is Reference.DATA
    assert machine.classify(99) is None


def test_aarch64_knows_what_is_out_of_reach() -> None:
    image = bytearray(8)
    with pytest.raises(BackendError, match="the code is too large, 268435456 is out of reach"):
        AArch64().apply(image, 283, 0, 1 << 28)
    AArch64().apply(image, 261, 4, 1)
    assert struct.unpack_from("<i", image, 4) == (-3,)
    AArch64().apply(image, 260, 0, 1)
    assert struct.unpack_from("<q", image, 0) == (1,)


_ARM_CODE = """
@numbers = private constant [4 x float] [float 0.0, float 1.0, float 2.0, float 3.0]
@where = global ptr @numbers
@count = global i32 40
declare float @expf(float)
define internal float @third() noinline {
  %first = load ptr, ptr @where
  %at = getelementptr float, ptr %first, i64 2
  %x = load float, ptr %at
  ret float %x
}
define i32 @run(ptr %table) {
  %x = call float @third()
  %y = call float @expf(float %x)
  store float %y, ptr %table
  %c = load i32, ptr @count
  %d = add i32 %c, 2
  ret i32 %d
}
!llvm.module.flags = !{!0}
!0 = !{i32 4, !"tvm_target",
  !"{\\22kind\\22: \\22llvm\\22, \\22mtriple\\22: \\22aarch64-linux-gnu\\22}"}
"""
_ARM_MAIN = """
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv) {
    float y = 0;
    void *library = dlopen(argv[argc - 1], RTLD_NOW);
    if (!library) return printf("%s", dlerror()), 1;
    int code = ((int (*)(float *))dlsym(library, "run"))(&y);
    return printf("%d %.4f", code, y), 0;
}
"""


@pytest.mark.arm
def test_a_library_for_aarch64_runs(tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("needs aarch64-linux-gnu-gcc and qemu-aarch64")
    library, source, program = tmp_path / "it.so", tmp_path / "main.c", tmp_path / "main"
    library.write_bytes(link_shared([_object_file(_ARM_CODE)], "it.so", AArch64()))
    source.write_text(_ARM_MAIN)
    subprocess.run([compiler, str(source), "-o", str(program), "-ldl"], check=True)
    command = [emulator, "-L", "/usr/aarch64-linux-gnu", str(program), str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"42 {np.exp(2):.4f}"


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
