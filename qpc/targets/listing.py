"""All targets with what each needs, as `qpc targets` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qpc.targets.data import Board
from qpc.targets.target import ARCHITECTURES, PRESETS, TARGETS, Target


@dataclass(frozen=True)
class TargetLine:
    """One target.

    architecture: with the system. cpu: LLVM's name. needs: features that the CPU must have, by
    LLVM's names. missing: why code for it does not run on this machine; None if it does.
    """

    name: str
    architecture: str
    cpu: str
    kernels: str
    activation: str
    needs: tuple[str, ...]
    board: Board
    missing: str | None

    @property
    def memory(self) -> str:
        """Of the board, in words."""
        sizes = (("flash", self.board.flash), ("RAM", self.board.ram))
        return ", ".join(f"{word} {readable(size)}" for word, size in sizes if size is not None)

    def to_json(self) -> dict[str, Any]:
        """The line as JSON values."""
        return asdict(self)


def list_targets(more: Sequence[Target] = ()) -> list[TargetLine]:
    """Families of CPUs, then cores and boards by their own names, by architecture.

    more: targets besides QPC's own, such as those of `qpc.targets.installed`.
    """
    every = [*TARGETS, *PRESETS, *more]
    order = list(ARCHITECTURES)[::-1]
    every.sort(key=lambda target: order.index(target.architecture.name))
    return [_line(target) for target in every]


def listing_text(lines: Sequence[TargetLine]) -> str:
    """The list, as it is printed."""
    width = max(len(line.name) for line in lines)
    texts: list[str] = []
    for line in lines:
        if line.architecture not in texts:
            texts += ["", line.architecture]
        here = "*" if line.missing is None else " "
        texts.append(f"  {here} {line.name:<{width}}  {_description(line)}")
    return "\n".join(texts[1:])


def _description(line: TargetLine) -> str:
    parts = [f"CPU {line.cpu}, {line.kernels} kernels, {line.activation}"]
    if line.needs:
        parts.append(f"needs {' '.join(line.needs)}")
    if line.memory:
        parts.append(line.memory)
    return "; ".join(parts)


def _line(target: Target) -> TargetLine:
    known = target.architecture
    return TargetLine(
        target.name,
        f"{known.triple.split('-', 1)[0]}, {known.system}",
        target.llvm_cpu,
        target.isa,
        target.activation,
        target.features,
        target.board,
        target.runs_here(),
    )


def readable(size: int) -> str:
    """Bytes in the largest unit in which they are a whole number: `512 KiB`."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size:,} bytes"
