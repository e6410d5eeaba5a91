"""What a target is made of, and what those of an architecture have in common."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Protocol

from qpc.targets.costs import Costs

LINUX_LIBRARIES = ("libm.so.6", "libc.so.6")
"""Where code for Linux with glibc finds functions of C, by the names of `DT_NEEDED`."""


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


class Host(Protocol):
    """How the operating system says what the CPU can do."""

    @property
    def source(self) -> str:
        """Where it says so, in words."""

    def available(self, features: Set[str]) -> Set[str] | None:
        """Those of the LLVM features that every core has; None if the system says nothing."""


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

    name: how triples of it begin, and what the system calls such a machine. triple: its usual one.
    cpu: LLVM's name of the CPU that has nothing but what all have. instructions: how names of
    features begin that change which instructions may be used. targets: within the tuple, a later
    one needs more of the CPU and is faster; the first runs on every such machine.
    """

    name: str
    triple: str
    cpu: str
    instructions: re.Pattern[str]
    host: Host
    permissions: tuple[Permission, ...]
    targets: tuple[TargetData, ...]
