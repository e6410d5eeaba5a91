"""64-bit ARM with Linux: families of CPUs, cores and boards.

What a family can do stands once; a core or a board of that family changes only what LLVM schedules
for and what is around it.
"""

from __future__ import annotations

import re
from dataclasses import replace

from qpc.targets.costs import NEON_COSTS
from qpc.targets.data import Architecture, Board, TargetData, Tools
from qpc.targets.host import CpuInfo

# How the kernel spells an LLVM feature in /proc/cpuinfo (the names of HWCAP), where the two differ.
_SPELLINGS = {
    "crc": "crc32",
    "dotprod": "asimddp",
    "fullfp16": "asimdhp",
    "lse": "atomics",
    "neon": "asimd",
    "rcpc": "lrcpc",
    "rdm": "asimdrdm",
}

_HWCAP, _HWCAP2 = 16, 26
# Bits of HWCAP as in Linux's asm/hwcap.h; entries of the vector as in elf.h.
_CAPABILITIES = (
    ("neon", _HWCAP, 1),
    ("crc", _HWCAP, 7),
    ("lse", _HWCAP, 8),
    ("fullfp16", _HWCAP, 10),
    ("rdm", _HWCAP, 12),
    ("rcpc", _HWCAP, 15),
    ("dotprod", _HWCAP, 20),
    ("sve", _HWCAP, 22),
    ("i8mm", _HWCAP2, 13),
    ("bf16", _HWCAP2, 14),
)

_AARCH64 = "aarch64-unknown-linux-gnu"
_ARMV8 = ("neon",)
_ARMV8_2 = (*_ARMV8, "crc", "dotprod", "fullfp16", "lse", "rcpc", "rdm")
_ARMV8_6 = (*_ARMV8_2, "i8mm")

# LLVM's order of instructions for a Cortex-A53, or for no CPU in particular, has so many products
# wait to be added that registers run out; the features of this one are no more than theirs.
_SCHEDULED_FOR = "cortex-a72"

# The families: instruction set, and the type of activations that its products want.
_PLAIN = TargetData(
    "aarch64",
    _AARCH64,
    _ARMV8,
    4,
    "neon",
    activation="int8",
    cpu=_SCHEDULED_FOR,
    counter=None,
    costs=NEON_COSTS,
)
_DOT_PRODUCTS = replace(
    _PLAIN,
    name="aarch64-dotprod",
    features=_ARMV8_2,
    isa="neon-dot",
    cpu=None,
    emulated="cortex-a76",
)
_MATRICES = replace(
    _DOT_PRODUCTS, name="aarch64-i8mm", features=_ARMV8_6, isa="neon-i8mm", emulated="max"
)
_SCALABLE = replace(_MATRICES, features=(*_ARMV8_6, "bf16", "sve"))

_KIB, _MIB, _GIB = 2**10, 2**20, 2**30


def _core(
    name: str,
    family: TargetData,
    emulated: str | None = None,
    *,
    cpu: str = "",
    flash: int | None = None,
    ram: int | None = None,
    caches: tuple[int, int] | None = None,
) -> TargetData:
    """A core or board; caches: for data and of the second level, in bytes."""
    board = Board(flash, ram, *(caches or ()))
    emulated = emulated or family.emulated
    return replace(family, name=name, cpu=cpu or name, board=board, emulated=emulated)


AARCH64 = Architecture(
    name="aarch64",
    machines=("arm64",),
    triple=_AARCH64,
    cpu="generic",
    instructions=re.compile("neon|fp-armv8|sve|sme|dotprod|i8mm|bf16|fullfp16|fp16|crc|lse|rcpc"),
    host=CpuInfo("Features", _SPELLINGS),
    permissions=(),
    capabilities=_CAPABILITIES,
    targets=(_PLAIN, _DOT_PRODUCTS, _MATRICES),
    tools=Tools(
        "aarch64-linux-gnu",
        "qemu-aarch64",
        ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"),
    ),
    # Sizes of caches are those of the chip of a board, and of a core by itself the usual ones.
    presets=(
        _core(
            "cortex-a53", _PLAIN, "cortex-a53", cpu=_SCHEDULED_FOR, caches=(32 * _KIB, 512 * _KIB)
        ),
        _core("cortex-a72", _PLAIN, "cortex-a72", caches=(32 * _KIB, 1 * _MIB)),
        _core("cortex-a55", _DOT_PRODUCTS, caches=(32 * _KIB, 128 * _KIB)),
        _core("cortex-a76", _DOT_PRODUCTS, caches=(64 * _KIB, 512 * _KIB)),
        _core("cortex-a78", _DOT_PRODUCTS, caches=(64 * _KIB, 512 * _KIB)),
        _core("neoverse-n1", _DOT_PRODUCTS, "neoverse-n1", caches=(64 * _KIB, 1 * _MIB)),
        _core("neoverse-v1", _SCALABLE, caches=(64 * _KIB, 1 * _MIB)),
        _core("apple-m1", _DOT_PRODUCTS, "max", caches=(128 * _KIB, 12 * _MIB)),
        _core(
            "raspberry-pi-3",
            _PLAIN,
            "cortex-a53",
            cpu=_SCHEDULED_FOR,
            ram=1 * _GIB,
            caches=(32 * _KIB, 512 * _KIB),
        ),
        _core(
            "raspberry-pi-4",
            _PLAIN,
            "cortex-a72",
            cpu="cortex-a72",
            ram=1 * _GIB,
            caches=(32 * _KIB, 1 * _MIB),
        ),
        _core(
            "raspberry-pi-5",
            _DOT_PRODUCTS,
            cpu="cortex-a76",
            ram=1 * _GIB,
            caches=(64 * _KIB, 512 * _KIB),
        ),
        _core(
            "raspberry-pi-zero-2",
            _PLAIN,
            "cortex-a53",
            cpu=_SCHEDULED_FOR,
            ram=512 * _MIB,
            caches=(32 * _KIB, 512 * _KIB),
        ),
    ),
)
