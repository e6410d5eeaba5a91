"""What a target is made of, and what those of an architecture have in common."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Protocol

from qpc.errors import UnsupportedTargetError
from qpc.targets.costs import Costs

LINUX, BARE_METAL = "Linux", "bare metal"
"""What a target's code runs on."""

C_SOURCE = "c"
"""The object format of code that a compiler of C has yet to compile."""

LINUX_LIBRARIES = ("libm.so.6", "libc.so.6")
"""Where code for Linux with glibc finds functions of C, by the names of `DT_NEEDED`."""


@dataclass(frozen=True)
class Board:
    """What there is around a CPU, in bytes; None where it differs, or has no limit that matters.

    flash: for code and constants. ram: for all else. data_cache, level2_cache: of one core.
    """

    flash: int | None = None
    ram: int | None = None
    data_cache: int | None = None
    level2_cache: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and (type(value) is not int or value <= 0):
                raise UnsupportedTargetError(
                    f"{name} of a board must be a number of bytes or None, got {value!r}"
                )


@dataclass(frozen=True)
class Tools:
    """What makes programs of C for an architecture, and what runs them elsewhere.

    compiler: how the names of GNU's cross tools begin. emulator: QEMU's command for programs.
    packages: Debian's packages of all of them.
    """

    compiler: str
    emulator: str
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class TargetData:
    """The fields of a `Target`; see there."""

    name: str
    triple: str
    features: tuple[str, ...]
    vector_lanes: int
    isa: str
    tuning: tuple[str, ...] = ()
    activation: str = "uint8"
    cpu: str | None = None
    abi: str | None = None
    object_format: str = "elf"
    libraries: tuple[str, ...] = LINUX_LIBRARIES
    counter: str | None = "llvm.readcyclecounter"
    costs: Costs = field(default_factory=Costs)
    board: Board = field(default_factory=Board)
    c_flags: tuple[str, ...] = ()
    emulated: str | None = None


class Host(Protocol):
    """How the operating system says what the CPU can do."""

    @property
    def source(self) -> str:
        """Where it says so, in words."""

    def available(self, features: Set[str]) -> Set[str] | None:
        """Those of the LLVM features that every core has; None if the system says nothing."""

    def found_in(self, text: str, features: Set[str]) -> Set[str]:
        """Those that every core of another machine has, by the text of its `/proc/cpuinfo`."""


class Permission(Protocol):
    """What a process has to ask the operating system for before it may use a feature."""

    @property
    def feature(self) -> str:
        """LLVM's name of the feature."""

    def refusal(self) -> str | None:
        """Ask; None if it is given, else the reason why not."""


@dataclass(frozen=True)
class Architecture:
    """What all targets of an architecture have in common.

    name: what the system calls such a machine; machines: what else it may call one that runs the
    same code. triples: what triples of it begin with. triple: its usual one. system: what they run,
    "Linux" or "bare metal". cpu: LLVM's name of the CPU that has nothing but what all have.
    instructions: how names of features begin that change which instructions may be used.
    address_bytes: of an address. abi_option: what TVM calls the choice that `Target.abi` is.
    capabilities: LLVM's names of features, each with the entry of the auxiliary vector and the bit
    in it by which Linux says that a CPU has it.
    targets: within the tuple, a later one needs more of the CPU and is faster; the first runs on
    every such machine. presets: CPUs and boards by their own names.
    saturating: kernels (`isa` of targets) whose fastest products of bytes are added in 16 bits, two
    by two.
    """

    name: str
    triple: str
    cpu: str
    instructions: re.Pattern[str]
    host: Host
    permissions: tuple[Permission, ...]
    targets: tuple[TargetData, ...]
    tools: Tools
    presets: tuple[TargetData, ...] = ()
    triples: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    system: str = LINUX
    address_bytes: int = 8
    capabilities: tuple[tuple[str, int, int], ...] = ()
    abi_option: str = "mfloat-abi"
    saturating: tuple[str, ...] = ()

    def knows(self, triple: str) -> bool:
        """Whether a triple is of this architecture, and of the system that its targets run."""
        first, *others = triple.split("-")
        needed = {LINUX: "linux", BARE_METAL: "none"}[self.system]
        return len(others) >= 2 and first in (self.name, *self.triples) and needed in others
