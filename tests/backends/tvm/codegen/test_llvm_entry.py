from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

from qpc.backends.common.plan import Place
from qpc.backends.deploy import elf
from qpc.backends.tvm.codegen.entry import Copy
from qpc.backends.tvm.codegen.llvm_entry import entry_object, entry_text
from tests.backends.deploy.models import deployable

pytestmark = pytest.mark.tvm


def test_addresses_are_checked_before_anything_is_called() -> None:
    text = entry_text(deployable())
    checks, calls = text.index("label %ERROR_ALIGNMENT"), text.index("call i32 @make")
    assert checks < calls
    assert "icmp ult i64 %arena_bytes, 256" in text


def test_places_become_addresses() -> None:
    lines = entry_text(deployable()).splitlines()
    (moved,) = {line.split(" = ")[0].strip() for line in lines if "ptr %arena, i64 192" in line}
    (end,) = [line for line in lines if "call i32 @end" in line]
    assert end.endswith(f"ptr %output_0, ptr {moved})")
    (make,) = [line for line in lines if "call i32 @make" in line]
    assert "ptr %input_0, ptr @w_1, ptr %" in make


def test_outputs_that_no_kernel_writes_are_copied() -> None:
    model = deployable()
    copy = Copy(Place("input", 0, 24), Place("output", 0, 24))
    text = entry_text(replace(model, entry=replace(model.entry, copies=(copy,))))
    assert "call ptr @memcpy(ptr %output_0, ptr %input_0, i64 24)" in text


@pytest.mark.parametrize(
    ("target", "machine", "wide"),
    [
        ("aarch64", 183, True),
        ("armv7-a", 40, False),
        ("riscv64", 243, True),
        ("cortex-m4", 40, False),
    ],
)
def test_it_is_compiled_for_every_architecture(target: str, machine: int, wide: bool) -> None:
    made = elf.read(entry_object(deployable(target)))
    assert (made.machine, made.layout.wide) == (machine, wide)
    named = {symbol.name: symbol for symbol in made.symbols}
    assert named["net_run"].section is not None
    assert {named[name].section for name in ("make", "end", "w_1")} == {None}


def test_threads_are_the_programs() -> None:
    made = elf.read(entry_object(replace(deployable(), threads=2)))
    named = {symbol.name: symbol.section for symbol in made.symbols}
    assert named["net_parallel"] is None
    assert named["__TVMBackendParallelLaunch"] is not None
