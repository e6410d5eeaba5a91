"""C compilers and emulators on this machine, for programs of other architectures."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qpc.backends.deploy import bare_metal
from qpc.errors import BackendError, MissingDependencyError
from qpc.targets import Target
from qpc.targets.data import BARE_METAL

_WARNINGS = ("-std=c99", "-Wall", "-Wextra")
_OPTIMIZE = "-O1"  # unless the compiler's own options say something else
_SECONDS = 120


def is_native(target: Target) -> bool:
    """Whether programs for the target are this machine's own."""
    known = target.architecture
    return platform.system() == known.system and platform.machine() in (known.name, *known.machines)


def compiler_for(target: Target, chosen: str | None = None) -> tuple[str, ...]:
    """The command that compiles C for a target, with its options.

    chosen: another command than GNU's. Raises MissingDependencyError if there is none.
    """
    tools = target.architecture.tools
    names = [chosen] if chosen else [f"{tools.compiler}-gcc"]
    if chosen is None and is_native(target):
        names = ["cc", "gcc", "clang", *names]
    for name in names:
        first, *options = name.split()
        if found := shutil.which(first):
            return found, *options, *target.c_flags
    raise MissingDependencyError(
        f"there is no C compiler for {target.name!r}: {' or '.join(names)} is not installed",
        fix=f"apt-get install {' '.join(tools.packages)}",
    )


def emulator_for(target: Target, cpu: str | None = None) -> tuple[str, ...]:
    """The command that runs programs of a target on this machine.

    cpu: QEMU's name of another CPU than the target's; of a board, for targets without an operating
    system. Raises MissingDependencyError if there is no emulator, BackendError for a board for
    which there is no start-up code.
    """
    tools = target.architecture.tools
    found = shutil.which(tools.emulator) or shutil.which(f"{tools.emulator}-static")
    if found is None:
        raise MissingDependencyError(
            f"programs for {target.name!r} do not run on this {platform.machine()}, "
            f"and {tools.emulator} is not installed",
            fix=f"apt-get install {' '.join(tools.packages)}, or check it on such a machine: "
            "--on ssh://HOST",
        )
    wanted = cpu or target.emulated
    if target.architecture.system == BARE_METAL:
        if wanted not in bare_metal.MACHINES:
            raise BackendError(
                f"there is no start-up code for the board {wanted!r} of QEMU",
                fix=f"use one of: {', '.join(bare_metal.MACHINES)}",
            )
        return found, "-M", wanted, *bare_metal.EMULATOR, "-kernel"
    return (found, "-cpu", wanted) if wanted else (found,)


@dataclass(frozen=True)
class Program:
    """A program on disk, and what runs it here."""

    path: Path
    emulator: tuple[str, ...] = ()

    def run(self, *arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run it to its end. Raises BackendError if that takes longer."""
        command = [*self.emulator, str(self.path), *arguments]
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=seconds,
                check=False,
                cwd=self.path.parent,
            )
        except subprocess.TimeoutExpired:
            raise BackendError(f"the program did not end within {seconds:g} s") from None


def build(
    sources: Sequence[Path],
    program: Path,
    compiler: Sequence[str],
    options: Sequence[str] = (),
    *,
    seconds: float = _SECONDS,
) -> None:
    """Compile and link C files and libraries. Raises BackendError with what the compiler says."""
    files = [*map(str, sources), "-o", str(program), *options]
    given = any(option.startswith("-O") for option in (*compiler, *options))
    level = [] if given else [_OPTIMIZE]
    try:
        done = subprocess.run(
            [*compiler, *_WARNINGS, *level, *files],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"{compiler[0]} did not end within {seconds:g} s") from None
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise BackendError(f"{compiler[0]} cannot build the test program: {said}")
