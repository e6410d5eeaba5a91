"""CPUs to compile for, as data: code generation reads a `Target` and never asks for a name."""

from __future__ import annotations

import ctypes
import functools
import platform
import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from qpc.errors import UnsupportedTargetError

_CPUINFO = Path("/proc/cpuinfo")

_MATRICES = "amx-tile"
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # of Linux on x86-64

# How the kernel spells an LLVM feature in /proc/cpuinfo, where the two differ.
_CPUINFO_FLAGS = {
    "amx-int8": "amx_int8",
    "amx-tile": "amx_tile",
    "avx512vnni": "avx512_vnni",
    "avxvnni": "avx_vnni",
    "bmi": "bmi1",
    "lzcnt": "abm",
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
}


@dataclass(frozen=True)
class Target:
    """A CPU family: what LLVM may use, and what the integer kernels are built from.

    `features` are LLVM feature names that the CPU must have. `tuning` are LLVM attributes that
    change the code but need nothing of the CPU. `vector_lanes` is the number of int32 lanes of one
    vector register and `isa` names the micro-kernel that multiplies and sums.
    """

    name: str
    triple: str
    features: tuple[str, ...]
    vector_lanes: int
    isa: str
    tuning: tuple[str, ...] = ()

    @classmethod
    def native(cls) -> Target:
        """The best target for this machine, from the feature flags the operating system reports.

        A CPU's name says little: a virtual machine may hide features that the model has.
        """
        runnable = [target for target in TARGETS if target.runs_here() is None]
        if not runnable:
            raise UnsupportedTargetError(f"no target for this machine, a {platform.machine()!r}")
        return runnable[-1]

    @classmethod
    def parse(cls, name: str) -> Target:
        """The target called `name`, or the one for this machine if `name` is "native"."""
        if name == "native":
            return cls.native()
        if not isinstance(name, str):
            raise UnsupportedTargetError(
                f"a target is a name or a qpc.Target, got {type(name).__name__}"
            )
        by_name = {target.name: target for target in TARGETS}
        if name not in by_name:
            known = ", ".join(["native", *by_name])
            raise UnsupportedTargetError(f"unknown target {name!r}", fix=f"use one of: {known}")
        return by_name[name]

    @property
    def mattr(self) -> tuple[str, ...]:
        """Features and tuning in LLVM's notation, `+name` or `-name`."""
        return (*(f"+{feature}" for feature in self.features), *self.tuning)

    def runs_here(self) -> str | None:
        """None if this machine can run code for the target, else the reason why not."""
        machine = self.triple.split("-", 1)[0]
        if platform.machine() != machine:
            return f"code is for {machine}, this machine is {platform.machine()}"
        missing = sorted(set(self.features) - cpu_features(self.features))
        if missing:
            return f"this CPU lacks {', '.join(missing)}"
        if _MATRICES in self.features and not _may_use_matrices():
            return "the operating system does not let this process use the registers of AMX"
        return None


@functools.cache
def _may_use_matrices() -> bool:
    """Ask Linux for the registers of AMX, which it gives to processes that ask."""
    syscall = ctypes.CDLL(None).syscall
    return int(syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)) == 0


def cpu_features(candidates: tuple[str, ...], cpuinfo: Path | None = None) -> Set[str]:
    """Those of the LLVM features `candidates` that every core of this machine has."""
    text = (cpuinfo or _CPUINFO).read_text()
    per_core = [set(flags.split()) for flags in re.findall(r"^flags\s*:(.*)$", text, re.MULTILINE)]
    common = set.intersection(*per_core) if per_core else set()
    return {name for name in candidates if _CPUINFO_FLAGS.get(name, name) in common}


_X86_64 = "x86_64-unknown-linux-gnu"
_SSE4 = ("cx16", "popcnt", "sse3", "ssse3", "sse4.1", "sse4.2")
_AVX2 = (*_SSE4, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_VNNI = (*_AVX512, "avx512vnni")
_AMX = (*_VNNI, "avx512vbmi", "amx-tile", "amx-int8")
_WIDE = ("-prefer-256-bit",)  # without it LLVM splits 512-bit vectors for some CPUs

# Within one architecture, a later target needs more of the CPU and is faster.
TARGETS: tuple[Target, ...] = (
    Target("x86-64", _X86_64, (), 4, "generic"),
    Target("x86-64-sse4", _X86_64, _SSE4, 4, "sse4.1"),
    Target("x86-64-avx2", _X86_64, _AVX2, 8, "avx2"),
    Target("x86-64-avx512", _X86_64, _AVX512, 16, "avx512", _WIDE),
    Target("x86-64-avx-vnni", _X86_64, (*_AVX2, "avxvnni"), 8, "avx-vnni"),
    Target("x86-64-avx512-vnni-256", _X86_64, _VNNI, 8, "avx-vnni"),
    Target("x86-64-avx512-vnni", _X86_64, _VNNI, 16, "avx512-vnni", _WIDE),
    Target("x86-64-avx512-vnni-vbmi", _X86_64, (*_VNNI, "avx512vbmi"), 16, "avx512-vnni", _WIDE),
    Target("x86-64-amx", _X86_64, _AMX, 16, "amx", _WIDE),
)
