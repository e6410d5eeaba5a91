"""What the compiler did with each node: shown to users, and saved with a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from qpc.analysis.exactness import Exactness


@dataclass(frozen=True)
class KernelUse:
    """A call of an integer kernel and the graph nodes it computes; several nodes are fused.

    nodes: none for a kernel that only moves data from one memory order to another.
    macs: multiply-accumulates of the call, with those that it skips. bytes: of all its arguments,
    the result included, but for channels that it leaves alone. skipped: the share of the
    multiply-accumulates that it leaves out, as blocks of weights are zero. saved: the share of the
    other instructions that multiply that minimal filtering does without.
    """

    kernel: str
    nodes: tuple[str, ...]
    macs: int = 0
    bytes: int = 0
    skipped: float = 0.0
    saved: float = 0.0

    @property
    def done(self) -> float:
        """Multiply-accumulates that would take as many instructions as it executes."""
        return self.macs * (1 - self.skipped) * (1 - self.saved)

    def __str__(self) -> str:
        skips = f" (skips {self.skipped:.0%}, zero weights)" if self.skipped else ""
        saves = f" (saves {self.saved:.0%}, minimal filtering)" if self.saved else ""
        return f"{self.kernel}: {' + '.join(self.nodes)}{skips}{saves}"


@dataclass(frozen=True)
class OtherUse:
    """A node that no integer kernel computes, and why."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What runs as an integer kernel, what does not, and where compile time went.

    outputs: of each distinct output, whether it is the same bits everywhere, and if not, which
    float operators it depends on.
    """

    kernels: tuple[KernelUse, ...] = ()
    others: tuple[OtherUse, ...] = ()
    outputs: tuple[Exactness, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def fused(self) -> tuple[KernelUse, ...]:
        """The kernels that compute several nodes."""
        return tuple(use for use in self.kernels if len(use.nodes) > 1)

    def __str__(self) -> str:
        lines = [f"{len(self.kernels)} integer kernels, {len(self.others)} other operators"]
        lines += [f"  int8   {use}" for use in self.kernels]
        lines += [f"  other  {use.operator} {use.node}: {use.reason}" for use in self.others]
        lines += [f"  output {output}" for output in self.outputs]
        stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self.seconds.items())
        return "\n".join([*lines, f"compile time: {stages}"])

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)
