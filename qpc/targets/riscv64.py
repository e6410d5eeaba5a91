"""64-bit RISC-V with Linux: what distributions ask of a CPU (RV64GC)."""

from __future__ import annotations

import re

from qpc.targets.data import Architecture, TargetData, Tools
from qpc.targets.host import RiscvInfo

_RISCV64 = "riscv64-unknown-linux-gnu"

RISCV64 = Architecture(
    name="riscv64",
    triple=_RISCV64,
    cpu="generic-rv64",
    instructions=re.compile(r"[a-z]$|z|v|64bit"),
    host=RiscvInfo(),
    permissions=(),
    targets=(
        TargetData(
            "riscv64",
            _RISCV64,
            ("m", "a", "f", "d", "c"),
            4,
            "generic",
            abi="lp64d",
            counter=None,
            emulated="rv64",
        ),
    ),
    tools=Tools(
        "riscv64-linux-gnu",
        "qemu-riscv64",
        ("gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross", "qemu-user"),
    ),
    abi_option="mabi",
)
