"""CPUs to compile for, as data: code generation reads a `Target` and never asks for a name."""

from __future__ import annotations

import ctypes
import difflib
import functools
import platform
import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

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
    vector register and `isa` names the micro-kernel that multiplies and sums. `activation` is the
    type of quantized activations, "uint8" or "int8", which differ by 128 and stand for the same
    reals: graphs must be quantized for it (`FakeQuantize(signed=True)` for int8).

    Raises UnsupportedTargetError for values that no target can have. Whether the micro-kernel can
    do with these features is checked by the compiler.
    """

    name: str
    triple: str
    features: tuple[str, ...]
    vector_lanes: int
    isa: str
    tuning: tuple[str, ...] = ()
    activation: str = "uint8"

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_strings("features", self.features, _FEATURE, 'names without a sign, such as "avx2"')
        tuning = 'names with + or - that need nothing of the CPU, such as "-prefer-256-bit"'
        _check_strings("tuning", self.tuning, _ATTRIBUTE, tuning)
        if type(self.vector_lanes) is not int or self.vector_lanes not in _LANES:
            raise UnsupportedTargetError(
                f"vector_lanes of a target must be one of {', '.join(map(str, _LANES))}, "
                f"got {self.vector_lanes!r}"
            )
        if not isinstance(self.isa, str):
            raise UnsupportedTargetError(f"isa of a target must be a name, got {self.isa!r}")
        if self.activation not in _ACTIVATIONS:
            raise UnsupportedTargetError(
                f"activation of a target must be one of {', '.join(_ACTIVATIONS)}, "
                f"got {self.activation!r}"
            )
        _check_triple(self.triple)

    @classmethod
    def native(cls) -> Target:
        """The best target for this machine, from the feature flags the operating system reports.

        A CPU's name says little: a virtual machine may hide features that the model has.
        """
        if platform.system() == _SYSTEM and _flags_of_cores() is None:
            raise UnsupportedTargetError(
                f"cannot see what this CPU can do: {_CPUINFO} cannot be read",
                fix="mount /proc, or choose a target: 'x86-64' runs on every one",
            )
        runnable = [target for target in TARGETS if target.runs_here() is None]
        if not runnable:
            raise UnsupportedTargetError(
                f"no target for this machine, a {platform.machine()!r} with {platform.system()}",
                fix="compile for another machine with target=..., or run the graph in PyTorch "
                "with target='reference'",
            )
        return runnable[-1]

    @classmethod
    def parse(cls, name: str) -> Target:
        """The target called `name`, or the one for this machine if `name` is "native".

        Raises UnsupportedTargetError for an unknown name, with the nearest one.
        """
        if name == "native":
            return cls.native()
        if not isinstance(name, str):
            raise UnsupportedTargetError(
                f"a target is a name or a qpc.Target, got {type(name).__name__}"
            )
        by_name = {target.name: target for target in TARGETS}
        return by_name[name] if name in by_name else _refuse(name)

    @property
    def mattr(self) -> tuple[str, ...]:
        """Features and tuning in LLVM's notation, `+name` or `-name`."""
        return (*(f"+{feature}" for feature in self.features), *self.tuning)

    def runs_here(self) -> str | None:
        """None if this machine can run code for the target, else the reason why not."""
        if platform.system() != _SYSTEM:
            return f"code is for {_SYSTEM}, this machine runs {platform.system()}"
        machine = self.triple.split("-", 1)[0]
        if platform.machine() != machine:
            return f"code is for {machine}, this machine is {platform.machine()}"
        missing = sorted(set(self.features) - cpu_features(self.features))
        if missing and _flags_of_cores() is None:
            return f"{_CPUINFO}, which says what the CPU can do, cannot be read"
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


def cpu_features(candidates: tuple[str, ...]) -> Set[str]:
    """Those of the LLVM features `candidates` that every core of this machine has."""
    per_core = _flags_of_cores()
    common = set.intersection(*per_core) if per_core else set()
    return {name for name in candidates if _CPUINFO_FLAGS.get(name, name) in common}


def _flags_of_cores() -> list[set[str]] | None:
    """What Linux says that each core can do; None if it says nothing."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return [set(flags.split()) for flags in re.findall(r"^flags\s*:(.*)$", text, re.MULTILINE)]


# --- mistakes -------------------------------------------------------------------------------------

_SYSTEM = "Linux"
_ARCHITECTURES = ("x86_64",)
_LANES = (1, 2, 4, 8, 16)
_ACTIVATIONS = ("uint8", "int8")
_FEATURE = re.compile(r"[a-z0-9][a-z0-9_.-]*")
# What changes the instructions that may be used is no tuning: nobody would ask the CPU for it.
_ATTRIBUTE = re.compile(r"[+-](?!s?sse|avx|amx|mmx|x87|fma|f16c|bmi)[a-z0-9][a-z0-9_.-]*")

_NOT_YET = {
    "ARM": r"a(arch64|rm)|apple|ampere|cortex|graviton|jetson|m[1-9]\b|neon|neoverse|raspberry|rpi"
    r"|snapdragon|sve|thumb",
    "RISC-V": r"risc|rv(32|64)",
    "GPUs": r"cuda|gpu|metal|nvidia|opencl|rocm|vulkan",
}
"""How names of CPUs begin, or parts of them behind a hyphen, for which there is no code."""

# What others call our targets: psABI levels of x86-64, and words for "this machine".
_ALSO_CALLED = {
    "x86-64-v2": "x86-64-sse4",
    "x86-64-v3": "x86-64-avx2",
    "x86-64-v4": "x86-64-avx512",
    "amd64": "x86-64",
    **dict.fromkeys(("auto", "cpu", "host", "local"), "native"),
}


def _refuse(name: str) -> NoReturn:
    """Raise for a name that is not known, and say which one may be meant."""
    known = ["native", *(target.name for target in TARGETS)]
    plain = name.strip().lower().replace("_", "-").replace(" ", "-")
    for family, pattern in _NOT_YET.items():
        if re.search(rf"(^|-)({pattern})", plain):
            raise UnsupportedTargetError(
                f"no code for {family} yet: {name!r} is not supported",
                fix=f"use one of: {', '.join(known)}",
            )
    near = _nearest(plain, known)
    others = f"use one of: {', '.join(known)}"
    raise UnsupportedTargetError(
        f"unknown target {name!r}", fix=f"{near!r} may be meant; else {others}" if near else others
    )


def _nearest(plain: str, known: list[str]) -> str | None:
    names = [*known, "reference"]
    if plain in names:  # but for capitals or underscores
        return plain
    if plain in _ALSO_CALLED:
        return _ALSO_CALLED[plain]
    ends = [name for name in names if plain and name.endswith(f"-{plain}")]
    close = difflib.get_close_matches(plain, names, n=1)
    return next(iter(ends or close), None)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise UnsupportedTargetError(f"a target needs a name, got {name!r}")


def _check_strings(field: str, values: object, allowed: re.Pattern[str], are: str) -> None:
    """Raise unless `values` is a tuple of strings of that form."""
    right = isinstance(values, tuple) and all(
        isinstance(value, str) and allowed.fullmatch(value) for value in values
    )
    if not right:
        raise UnsupportedTargetError(
            f"{field} of a target must be a tuple of {are}, got {values!r}"
        )


def _check_triple(triple: object) -> None:
    parts = triple.split("-") if isinstance(triple, str) else []
    if len(parts) < 3 or parts[0] not in _ARCHITECTURES or _SYSTEM.lower() not in parts[1:]:
        raise UnsupportedTargetError(
            f"no code for {triple!r}: a target is {' or '.join(_ARCHITECTURES)} with {_SYSTEM}",
            fix=f'triple="{_X86_64}"',
        )


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
