"""32-bit ARM with Linux: ARMv7-A with NEON, which Raspberry Pi OS of 32 bits runs on."""

from __future__ import annotations

import re
from dataclasses import replace

from qpc.targets.costs import NEON_COSTS
from qpc.targets.data import Architecture, Board, TargetData, Tools
from qpc.targets.host import CpuInfo

_ARMV7 = "armv7a-unknown-linux-gnueabihf"
_PLAIN = TargetData(
    "armv7-a",
    _ARMV7,
    ("neon",),
    4,
    "neon32",
    activation="int8",
    abi="hard",
    libraries=("libm.so.6", "libc.so.6"),
    counter=None,
    costs=NEON_COSTS,
    c_flags=("-march=armv7-a", "-mfpu=neon", "-mfloat-abi=hard"),
    emulated="cortex-a15",
)

ARMV7 = Architecture(
    name="armv7l",
    machines=("armv8l",),
    triples=("armv7a", "armv7"),
    triple=_ARMV7,
    cpu="generic",
    instructions=re.compile("neon|vfp|fp|dsp|hwdiv|crypto"),
    host=CpuInfo("Features"),
    permissions=(),
    targets=(_PLAIN,),
    tools=Tools(
        "arm-linux-gnueabihf",
        "qemu-arm",
        ("gcc-arm-linux-gnueabihf", "libc6-dev-armhf-cross", "qemu-user"),
    ),
    address_bytes=4,
    presets=(
        replace(_PLAIN, name="cortex-a7", cpu="cortex-a7", emulated="cortex-a7"),
        replace(_PLAIN, name="cortex-a9", cpu="cortex-a9", emulated="cortex-a9"),
        replace(
            _PLAIN,
            name="raspberry-pi-2",
            cpu="cortex-a7",
            emulated="cortex-a7",
            board=Board(ram=2**30, data_cache=32 * 2**10, level2_cache=512 * 2**10),
        ),
    ),
)
