"""What Linux says about the CPU, in the words of each architecture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class CpuInfo:
    """`/proc/cpuinfo`, which lists the features of each core.

    key: what the line with features begins with. spellings: how the kernel spells an LLVM feature,
    where the two differ.
    """

    key: str
    spellings: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The file."""
        return str(_CPUINFO)

    def available(self, features: Set[str]) -> Set[str] | None:
        """Those of the LLVM features that every core has; None if the file cannot be read."""
        text = _cpuinfo()
        return None if text is None else self.found_in(text, features)

    def found_in(self, text: str, features: Set[str]) -> Set[str]:
        """Those that every core has, by the text of such a file."""
        lines = re.findall(rf"^{re.escape(self.key)}\s*:(.*)$", text, re.MULTILINE)
        cores = [set(line.split()) for line in lines]
        common = set.intersection(*cores) if cores else set()
        return {name for name in features if self.spellings.get(name, name) in common}


@dataclass(frozen=True)
class RiscvInfo:
    """`/proc/cpuinfo` on RISC-V, where one word lists the extensions: `rv64imafdc_zba_zbb`."""

    @property
    def source(self) -> str:
        """The file."""
        return str(_CPUINFO)

    def available(self, features: Set[str]) -> Set[str] | None:
        """Those of the LLVM features that every core has; None if the file cannot be read."""
        text = _cpuinfo()
        return None if text is None else self.found_in(text, features)

    def found_in(self, text: str, features: Set[str]) -> Set[str]:
        """Those that every core has, by the text of such a file."""
        cores = [_extensions(word) for word in re.findall(r"^isa\s*:\s*(\S+)", text, re.MULTILINE)]
        return features & set.intersection(*cores) if cores else set()


def _extensions(isa: str) -> set[str]:
    letters, *named = isa.lower().split("_")
    single = set(letters.removeprefix("rv64").removeprefix("rv32"))
    return single | set(named) | (set("imafd") if "g" in single else set())


@dataclass(frozen=True)
class NoSystem:
    """A machine without an operating system: nobody compiles on it."""

    @property
    def source(self) -> str:
        """Nothing says it."""
        return "nothing"

    def available(self, features: Set[str]) -> Set[str] | None:
        """None: there is nothing to ask."""
        return None

    def found_in(self, text: str, features: Set[str]) -> Set[str]:
        """All: no text says anything else."""
        return features


def _cpuinfo() -> str | None:
    try:
        return _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
