"""Exported libraries are run: on this machine, in an emulator, or on a board.

The sample program in the folder is built and run; it compares every byte of the outputs. All files
are checked against the hashes in the manifest before.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from qpc.backends.deploy import bare_metal
from qpc.backends.deploy.board import Board, ended_by
from qpc.backends.deploy.manifest import LibraryEntry, read_library
from qpc.backends.deploy.sample import MAIN, VECTORS
from qpc.backends.deploy.toolchain import Program, build, compiler_for, emulator_for, is_native
from qpc.children import run_module
from qpc.errors import ArtifactError, BackendError, MissingDependencyError
from qpc.targets import Target
from qpc.targets.data import BARE_METAL
from qpc.targets.form import decode_target

_SECONDS = 600.0


@dataclass(frozen=True)
class Where:
    """Where a library is run.

    on: the address of a board, None for this machine. cpu: what QEMU emulates, if not the target's
    CPU. compiler: another command than GNU's compiler for the target. seconds: after which a
    program is stopped.
    """

    on: str | None = None
    cpu: str | None = None
    compiler: str | None = None
    seconds: float = _SECONDS


@dataclass(frozen=True)
class Verified:
    """A library that gave the expected outputs. where: in words."""

    name: str
    target: str
    cases: int
    where: str
    tolerances: tuple[float | None, ...]

    def __str__(self) -> str:
        exact = sum(tolerance is None for tolerance in self.tolerances)
        near = len(self.tolerances) - exact
        outputs = f"{exact} exact output{'s' * (exact != 1)}: every byte is as expected"
        rest = f"; {near} rounded by float operators, within their bounds" if near else ""
        what = f"{self.name} for {self.target}, {self.cases} test vectors {self.where}"
        return f"{what}: {outputs}{rest}"


@dataclass(frozen=True)
class Timed:
    """Times of calls, in milliseconds. where: in words."""

    name: str
    target: str
    where: str
    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of all calls."""
        return statistics.median(self.milliseconds)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self) | {"median_ms": self.median}

    def __str__(self) -> str:
        least, most = min(self.milliseconds), max(self.milliseconds)
        return (
            f"{self.name} for {self.target} {self.where}: {self.median:.3f} ms "
            f"({least:.3f}..{most:.3f}, {len(self.milliseconds)} calls)"
        )


def verify(path: str | os.PathLike[str], where: Where | None = None) -> Verified:
    """Replay the test vectors of the exported library in a folder.

    Raises ArtifactError if files are damaged, MissingDependencyError without a compiler or
    emulator, and BackendError, which says what was seen, if an output is not as expected.
    """
    where = where or Where()
    entry, files = read_library(path)
    target = _target(entry, path)
    with _ready(path, entry, files, target, where) as ready:
        done = ready.run("", where.seconds)
        _check(entry, target, done, ready.place)
        tolerances = tuple(port.tolerance for port in entry.outputs)
        return Verified(entry.name, target.name, entry.cases, ready.place, tolerances)


def time_library(
    path: str | os.PathLike[str], where: Where | None = None, *, calls: int = 50
) -> Timed:
    """Time calls of the library in a folder, after its outputs were compared.

    Times in an emulator say nothing about a real machine. Raises as `verify` does, and BackendError
    for fewer than one call.
    """
    where = where or Where()
    if calls < 1:
        raise BackendError(f"calls must be a positive number, got {calls}")
    entry, files = read_library(path)
    target = _target(entry, path)
    with _ready(path, entry, files, target, where) as ready:
        done = ready.run(f"--time {calls}", where.seconds)
        _check(entry, target, done, ready.place)
        found = re.findall(r"^(\d+) ns$", done.stdout, re.MULTILINE)
        if len(found) != calls:
            raise BackendError(f"{entry.name!r} was not timed {ready.place}: {_last(done)}")
        times = tuple(int(ns) / 1e6 for ns in found)
        return Timed(entry.name, target.name, ready.place, times)


# --- running --------------------------------------------------------------------------------------


class _Ready(Protocol):
    """A program that can be run. place: where, in words."""

    place: str

    def run(self, options: str, seconds: float) -> subprocess.CompletedProcess[str]: ...


@dataclass
class _Here:
    program: Program
    vectors: Path
    place: str
    takes_arguments: bool

    def run(self, options: str, seconds: float) -> subprocess.CompletedProcess[str]:
        if not self.takes_arguments:
            if options:
                raise BackendError("programs without an operating system have no clock")
            return self.program.run(seconds=seconds)
        return self.program.run(*options.split(), str(self.vectors), seconds=seconds)


@dataclass
class _There:
    board: Board
    program: str
    vectors: bytes
    place: str

    def run(self, options: str, seconds: float) -> subprocess.CompletedProcess[str]:
        return self.board.shell(f"{self.program} {options} -", self.vectors, seconds=seconds)


@dataclass
class _Loaded:
    """The shared library, in a process of its own, where there is no compiler."""

    folder: str | os.PathLike[str]
    library: str
    place: str = "on this machine, as a shared library"

    def run(self, options: str, seconds: float) -> subprocess.CompletedProcess[str]:
        calls = options.removeprefix("--time").strip() or "0"
        module = "qpc.backends.deploy.replay"
        ended = run_module(module, str(self.folder), self.library, calls, timeout=seconds)
        if ended.status is None:
            raise BackendError(f"the program did not end within {seconds:g} s")
        return subprocess.CompletedProcess(module, ended.status, ended.output, ended.errors)


@contextmanager
def _ready(
    path: str | os.PathLike[str],
    entry: LibraryEntry,
    files: Mapping[str, bytes],
    target: Target,
    where: Where,
) -> Iterator[_Ready]:
    board = Board.parse(where.on) if where.on is not None else None
    emulator: tuple[str, ...] = ()
    if board is not None:
        board.check(target)
    elif where.cpu is not None or not is_native(target):
        emulator = emulator_for(target, where.cpu)
    elif (reason := target.runs_here()) is not None:
        raise BackendError(
            f"{entry.name!r} cannot run here: {reason}",
            fix="run it on such a machine (--on ssh://HOST), or emulate one (--cpu max)",
        )
    try:
        compiler = compiler_for(target, where.compiler)
    except MissingDependencyError:
        library = f"lib{entry.name}.so"
        if board is not None or emulator or where.compiler or library not in files:
            raise
        yield _Loaded(path, library)
        return
    with tempfile.TemporaryDirectory(prefix="qpc-verify-") as name:
        folder = Path(name)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        static = board is not None or bool(emulator)
        try:
            main = _built(folder, entry, compiler, _board_of(emulator), static=static)
        except BackendError as e:
            if where.compiler is None:
                raise
            fix = f"--cc takes a compiler for {target.architecture.name}; without, it is GNU's"
            raise BackendError(e.what, fix=fix) from e
        if board is not None:
            with board.program(main.read_bytes()) as copied:
                yield _There(board, copied, files[VECTORS], f"on {board}")
            return
        takes_arguments = target.architecture.system != BARE_METAL
        place = f"in {_in_words(emulator)}" if emulator else "on this machine"
        yield _Here(Program(main, emulator), folder / VECTORS, place, takes_arguments)


def _built(
    folder: Path,
    entry: LibraryEntry,
    compiler: Sequence[str],
    machine: str | None,
    *,
    static: bool,
) -> Path:
    """The sample program, built in the folder that holds the files of a library.

    machine: QEMU's board, for cores without an operating system. static: whether nothing of C need
    be there where it runs.
    """
    sources = [folder / file for file in (MAIN, *entry.sources, entry.library)]
    options = ["-I", str(folder)]  # where the assembler looks for constants
    options += ["-static"] if static else []
    options += ["-pthread"] if any("pthread" in source for source in entry.sources) else []
    if machine is not None:
        for file, text in bare_metal.files(machine).items():
            (folder / file).write_text(text, encoding="utf-8")
        sources.insert(0, folder / bare_metal.START)
        options += [*bare_metal.OPTIONS, "-L", str(folder)]
    build(sources, folder / "main", compiler, [*options, "-lm"])
    return folder / "main"


def _board_of(emulator: Sequence[str]) -> str | None:
    """The board that an emulator plays, if it plays one."""
    return emulator[emulator.index("-M") + 1] if "-M" in emulator else None


def _in_words(emulator: Sequence[str]) -> str:
    machine = _board_of(emulator)
    shown = ("-M", machine) if machine else tuple(emulator[1:])
    return " ".join((Path(emulator[0]).name, *shown))


def _target(entry: LibraryEntry, path: str | os.PathLike[str]) -> Target:
    try:
        return decode_target(entry.target)
    except ValueError as e:
        raise ArtifactError(
            f"library.json of {str(path)!r} is damaged: {e}", fix="export the library again"
        ) from e


def _check(
    entry: LibraryEntry,
    target: Target,
    done: subprocess.CompletedProcess[str],
    place: str,
) -> None:
    """Raise BackendError unless the program ended well, and compared all test vectors."""
    if done.returncode == 0 and done.stdout.startswith(f"{entry.cases} cases, all equal"):
        return
    if (name := ended_by(done.returncode)) is not None:
        reason = f"it crashed with {name}"
        if name == "SIGILL":
            reason += f": the CPU lacks instructions of {target.name!r}"
        raise BackendError(f"{entry.name!r} does not run {place}: {reason}")
    if "unable to find CPU model" in done.stderr:
        command = place.removeprefix("in ").rpartition(" ")[0]
        raise BackendError(f"QEMU knows no such CPU: {_last(done)}", fix=f"one of: {command} help")
    if target.architecture.system == BARE_METAL and not done.stdout:
        raise BackendError(
            f"{entry.name!r} does not run {place}: the core took an exception before all was done",
            fix=f"its core may lack what {target.name!r} has; without --cpu it is one that fits",
        )
    raise BackendError(f"{entry.name!r} does not give the expected outputs {place}: {_last(done)}")


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stdout.splitlines() if not line.endswith(" ns")]
    lines += done.stderr.strip().splitlines()
    wrong = [line for line in lines if not line.endswith("all equal")]
    return "; ".join(wrong[:3]) or f"exit status {done.returncode}"
