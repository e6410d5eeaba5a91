"""What the compiler did with each node: shown to users, and saved with a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from qpc.analysis.exactness import Exactness
from qpc.backends.common.plan import KernelUse
from qpc.terminal.notebook import Shown


@dataclass(frozen=True)
class OtherUse:
    """A node that no integer kernel computes, and why."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """What runs as an integer kernel, what does not, and where compile time went.

    outputs: of each distinct output, whether it is the same bits everywhere, and if not, which
    float operators it depends on.
    """

    kernels: tuple[KernelUse, ...] = ()
    others: tuple[OtherUse, ...] = ()
    outputs: tuple[Exactness, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def _bars(self) -> tuple[str, Iterator[tuple[str, float]]]:
        return "seconds of compiling", iter(self.seconds.items())

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
