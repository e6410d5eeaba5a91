"""x86-64 with Linux: families of CPUs, and what the system says about them."""

from __future__ import annotations

import ctypes
import functools
import re
from dataclasses import dataclass
from typing import ClassVar

from qpc.targets.data import Architecture, TargetData, Tools
from qpc.targets.host import CpuInfo

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # of Linux on x86-64


@dataclass(frozen=True)
class MatrixRegisters:
    """The registers of AMX, which Linux gives to processes that ask."""

    feature: ClassVar[str] = "amx-tile"

    def refusal(self) -> str | None:
        """Ask; None if they are given, else the reason why not."""
        if _may_use_matrices():
            return None
        return "the operating system does not let this process use the registers of AMX"


@functools.cache
def _may_use_matrices() -> bool:
    syscall = ctypes.CDLL(None).syscall
    return int(syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)) == 0


# How the kernel spells an LLVM feature in /proc/cpuinfo, where the two differ.
_SPELLINGS = {
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

_X86_64 = "x86_64-unknown-linux-gnu"
_SSE4 = ("cx16", "popcnt", "sse3", "ssse3", "sse4.1", "sse4.2")
_AVX2 = (*_SSE4, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_VNNI = (*_AVX512, "avx512vnni")
_VBMI = (*_VNNI, "avx512vbmi")
_AMX = (*_VBMI, "amx-tile", "amx-int8")
_WIDE = ("-prefer-256-bit",)  # without it LLVM splits 512-bit vectors for some CPUs

X86_64 = Architecture(
    name="x86_64",
    triple=_X86_64,
    cpu="x86-64",
    instructions=re.compile("s?sse|avx|amx|mmx|x87|fma|f16c|bmi"),
    host=CpuInfo("flags", _SPELLINGS),
    permissions=(MatrixRegisters(),),
    targets=(
        TargetData("x86-64", _X86_64, (), 4, "generic"),
        TargetData("x86-64-sse4", _X86_64, _SSE4, 4, "sse4.1"),
        TargetData("x86-64-avx2", _X86_64, _AVX2, 8, "avx2"),
        TargetData("x86-64-avx512", _X86_64, _AVX512, 16, "avx512", _WIDE),
        TargetData("x86-64-avx-vnni", _X86_64, (*_AVX2, "avxvnni"), 8, "avx-vnni"),
        TargetData("x86-64-avx512-vnni-256", _X86_64, _VNNI, 8, "avx-vnni"),
        TargetData("x86-64-avx512-vnni", _X86_64, _VNNI, 16, "avx512-vnni", _WIDE),
        TargetData("x86-64-avx512-vnni-vbmi", _X86_64, _VBMI, 16, "avx512-vnni", _WIDE),
        TargetData("x86-64-amx", _X86_64, _AMX, 16, "amx", _WIDE),
    ),
    # Levels of the psABI: what distributions and compilers call them.
    presets=(
        TargetData("x86-64-v2", _X86_64, _SSE4, 4, "sse4.1", cpu="x86-64-v2"),
        TargetData("x86-64-v3", _X86_64, _AVX2, 8, "avx2", cpu="x86-64-v3"),
        TargetData("x86-64-v4", _X86_64, _AVX512, 16, "avx512", _WIDE, cpu="x86-64-v4"),
    ),
    tools=Tools("x86_64-linux-gnu", "qemu-x86_64", ("gcc", "libc6-dev", "qemu-user")),
    saturating=("sse4.1", "avx2", "avx512"),
)
