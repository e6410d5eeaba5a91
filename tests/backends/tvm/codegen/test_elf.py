"""The linker: what it makes can be loaded, and what it cannot link it says."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from qpc.backends.tvm.codegen import elf
from qpc.backends.tvm.codegen.elf_format import ObjectFile, Relocation, Section, Symbol, parse
from qpc.backends.tvm.codegen.machines import X86_64
from qpc.errors import BackendError

pytestmark = pytest.mark.tvm


LIBRARIES = [b"libm.so.6", b"libc.so.6"]


def _object(tmp_path: Path, **options: object) -> bytes:
    """A small function that imports `expf`, refers to constants, and has a loop."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("soften")
        x = T.arg("x", T.buffer((37,), "float32"))
        y = T.arg("y", T.buffer((37,), "float32"))
        with T.serial(0, 37) as i:
            T.buffer_store(y, T.exp(x[i]) * T.float32(0.123), [i])
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu"} | options)
    library = tirx.build(tvm.IRModule({"soften": builder.get()}), target, pipeline="default")
    library.write_to_file(str(tmp_path / "kernels.o"))
    return (tmp_path / "kernels.o").read_bytes()


def test_a_linked_library_runs(tmp_path: Path) -> None:
    path = tmp_path / "kernels.so"
    path.write_bytes(elf.link_shared([_object(tmp_path)], "kernels.so"))
    import numpy as np

    x, y = np.linspace(-2, 2, 37, dtype=np.float32), np.zeros(37, np.float32)
    out = tvm.runtime.tensor(y)
    tvm.runtime.load_module(str(path))["soften"](tvm.runtime.tensor(x), out)
    np.testing.assert_allclose(out.numpy(), np.exp(x) * np.float32(0.123), rtol=1e-5)


def test_a_library_exports_its_functions_and_imports_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "kernels.so"
    path.write_bytes(elf.link_shared([_object(tmp_path)], "kernels.so"))
    library = ctypes.CDLL(str(path))
    assert library["__tvm_ffi_soften"] is not None
    with pytest.raises(AttributeError):
        library["no_such_function"]


def test_a_library_says_that_it_has_segments_and_no_sections(tmp_path: Path) -> None:
    library = elf.link_shared([_object(tmp_path)], "kernels.so")
    *_, size, phentsize, segments, shentsize, sections, names = struct.unpack_from(
        "<HHIQQQIHHHHHH", library, 16
    )
    assert (size, phentsize, shentsize, sections, names) == (64, 56, 0, 0, 0)
    kinds = [struct.unpack_from("<I", library, 64 + 56 * i)[0] for i in range(segments)]
    assert {1, 2} <= set(kinds)  # what is loaded, and how it is linked


def test_objects_find_each_other(tmp_path: Path) -> None:
    """One object points to what another defines; what both define is there once."""
    empty = Section("", 0, 0, b"", 0, 1, 0, 0)

    def part(value: int, symbols: list[Symbol], *pointers: int) -> ObjectFile:
        data = struct.pack("<QQQ", value, 0, 0)
        section = Section(".data", 1, 3, data, 24, 8, 0, 0)
        found = [Relocation(1, 8 + 8 * i, 1, s, 0) for i, s in enumerate(pointers)]
        return ObjectFile([empty, section], symbols, found)

    def defined(name: bytes) -> Symbol:
        return Symbol(name, 2, 1, 1, 0, 8)

    wanted = Symbol(b"other", 1, 0, 0, 0, 0)
    first = part(7, [defined(b"first"), wanted, defined(b"both")], 1, 2)
    second = part(9, [defined(b"other"), defined(b"both")], 1)
    path = tmp_path / "both.so"
    path.write_bytes(
        elf._Linker(elf._merged([first, second]), b"both.so", X86_64(), LIBRARIES).link()
    )
    library = ctypes.CDLL(str(path))

    def at(name: str) -> int:
        return ctypes.addressof(ctypes.c_uint64.in_dll(library, name))

    assert (ctypes.c_uint64 * 3).in_dll(library, "first")[:] == [7, at("other"), at("first")]
    assert (ctypes.c_uint64 * 2).in_dll(library, "other")[:] == [9, at("both")]
    assert at("both") == at("first")


def test_no_page_is_writable_and_executable(tmp_path: Path) -> None:
    image = elf.link_shared([_object(tmp_path)], "kernels.so")
    count, at = struct.unpack_from("<H", image, 56)[0], struct.unpack_from("<Q", image, 32)[0]
    flags = [struct.unpack_from("<II", image, at + 56 * i)[1] for i in range(count)]
    assert count == 6
    assert not any(f & 1 and f & 2 for f in flags)


def test_linking_is_deterministic(tmp_path: Path) -> None:
    code = _object(tmp_path)
    assert elf.link_shared([code], "a.so") == elf.link_shared([code], "a.so")


def test_only_objects_for_x86_64_are_linked(tmp_path: Path) -> None:
    for code in (b"", b"hello" * 100, _object(tmp_path, mtriple="aarch64-linux-gnu")):
        with pytest.raises(BackendError, match="the compiler did not emit an x86-64 object file"):
            elf.link_shared([code], "kernels.so")


def _with_relocation_type(code: bytes, kind: int) -> bytes:
    """The object with the type of its first code relocation changed."""
    parsed = parse(code, 62, "x86-64")
    text = next(i for i, s in enumerate(parsed.sections) if s.name == ".text")
    table = next(s for s in parsed.sections if s.kind == 4 and s.target == text)
    at = code.index(table.data)
    changed = bytearray(code)
    struct.pack_into("<I", changed, at + 8, kind)
    return bytes(changed)


def test_an_unknown_relocation_is_an_error(tmp_path: Path) -> None:
    code = _with_relocation_type(_object(tmp_path), 99)
    with pytest.raises(BackendError, match="cannot link: relocation type 99 for"):
        elf.link_shared([code], "kernels.so")


def test_a_symbol_without_a_section_is_an_error() -> None:
    linker = elf._Linker(
        ObjectFile([], [Symbol(b"odd", 1, 1, 0xFFF2, 0, 8)], []), b"x", X86_64(), LIBRARIES
    )
    with pytest.raises(BackendError, match="cannot link: symbol 'odd' has no section"):
        linker._address(0)


def test_absolute_addresses_are_left_to_the_loader(tmp_path: Path) -> None:
    """Data that points to data and to imported functions, which TVM's kernels do not have."""
    sections = [
        Section("", 0, 0, b"", 0, 1, 0, 0),
        Section(".data", 1, 3, bytes(16), 16, 8, 0, 0),
        Section(".bss", 8, 3, b"", 64, 64, 0, 0),
    ]
    symbols = [
        Symbol(b"pointers", 1, 1, 1, 0, 16),
        Symbol(b"zeros", 0, 1, 2, 0, 64),
        Symbol(b"getenv", 1, 0, 0, 0, 0),
    ]
    relocations = [Relocation(1, 0, 1, 1, 8), Relocation(1, 8, 1, 2, 0)]
    image = elf._Linker(
        ObjectFile(sections, symbols, relocations), b"data.so", X86_64(), LIBRARIES
    ).link()
    path = tmp_path / "data.so"
    path.write_bytes(image)
    library = ctypes.CDLL(str(path))
    first, second = (ctypes.c_uint64 * 2).in_dll(library, "pointers")
    assert first % 64 == 8
    assert ctypes.string_at(first, 8) == bytes(8)
    assert second == ctypes.cast(ctypes.CDLL(None).getenv, ctypes.c_void_p).value
