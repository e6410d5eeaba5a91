"""Names of targets that nobody knows: which one may be meant, and what there is no code for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from qpc.errors import UnsupportedTargetError

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


def refuse(name: str, targets: Sequence[str]) -> NoReturn:
    """Raise UnsupportedTargetError for a name that is none of `targets`, with the nearest one."""
    known = ["native", *targets]
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
    import difflib  # here, as right names need none

    names = [*known, "reference"]
    if plain in names:  # but for capitals or underscores
        return plain
    if plain in _ALSO_CALLED:
        return _ALSO_CALLED[plain]
    ends = [name for name in names if plain and name.endswith(f"-{plain}")]
    close = difflib.get_close_matches(plain, names, n=1)
    return next(iter(ends or close), None)
