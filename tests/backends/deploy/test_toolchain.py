from __future__ import annotations

from pathlib import Path

import pytest

from qpc.backends.deploy.toolchain import Program, build, compiler_for, emulator_for
from qpc.errors import BackendError, MissingDependencyError
from qpc.targets import Target
from tests.emulation import require


def command(folder: Path, name: str, text: str = "") -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_compiler_gets_the_options_of_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gcc = command(tmp_path, "arm-none-eabi-gcc")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiler_for(Target.parse("cortex-m4"))[:2] == (gcc, "-mcpu=cortex-m4")
    own = command(tmp_path, "zig")
    assert compiler_for(Target.parse("aarch64"), "zig cc -target x") == (own, "cc", "-target", "x")


def test_qemu_emulates_the_cpu_of_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = command(tmp_path, "qemu-aarch64-static")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert emulator_for(Target.parse("raspberry-pi-4")) == (qemu, "-cpu", "cortex-a72")
    assert emulator_for(Target.parse("raspberry-pi-4"), "max") == (qemu, "-cpu", "max")
    assert emulator_for(Target.parse("aarch64")) == (qemu,)


def test_cores_without_a_system_are_on_a_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = command(tmp_path, "qemu-system-arm")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = emulator_for(Target.parse("cortex-m4"))
    assert (found[:3], found[-1]) == ((qemu, "-M", "mps2-an386"), "-kernel")
    with pytest.raises(BackendError, match="no start-up code for the board 'virt' of QEMU"):
        emulator_for(Target.parse("cortex-m4"), "virt")


@pytest.mark.parametrize("find", [compiler_for, emulator_for])
def test_missing_tools_are_named_with_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, find: object
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="not installed") as caught:
        find(Target.parse("riscv64"))  # type: ignore[operator]  # it is a function
    assert caught.value.fix is not None
    assert "gcc-riscv64-linux-gnu" in caught.value.fix


def test_what_the_compiler_says_is_passed_on(tmp_path: Path) -> None:
    require("gcc")
    source = tmp_path / "wrong.c"
    source.write_text("int main(void) { return nothing; }")
    with pytest.raises(BackendError, match=r"(?s)gcc cannot build the test program: .*nothing"):
        build([source], tmp_path / "main", ["gcc"])


def test_what_does_not_end_is_stopped(tmp_path: Path) -> None:
    slow = command(tmp_path, "slow", "exec sleep 5")
    with pytest.raises(BackendError, match=r"the program did not end within 0\.1 s"):
        Program(Path(slow)).run(seconds=0.1)
    with pytest.raises(BackendError, match=r"slow did not end within 0\.1 s"):
        build([], tmp_path / "main", [slow], seconds=0.1)
