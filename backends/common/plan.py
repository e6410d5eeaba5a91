"""The plan of a compilation: what runs in which order, how, and in which memory.

It says what was decided, not what came of it: no times of a machine, no addresses. It prints as
text that is the same wherever a graph is compiled for the same target, and it is saved with a
compiled model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["input", "weight", "output", "arena"]


@dataclass(frozen=True)
class KernelUse:
    """A call of a kernel and the graph nodes it computes; several nodes are fused.

    nodes: none for a kernel that only moves data from one memory order to another.
    macs: multiply-accumulates of the call, with those that it skips. bytes: of all its arguments,
    the result included, but for channels that it leaves alone. skipped: the share of the
    multiply-accumulates that it leaves out, as blocks of weights are zero. saved: the share of the
    other instructions that multiply that Winograd (minimal filtering) does without.
    method: how it computes, where a model of costs has chosen between several ways. time: what that
    model makes of it, in instructions that multiply; to compare, not to predict.
    notes: what the graph's plan decided about it, in words.
    """

    kernel: str
    nodes: tuple[str, ...]
    macs: int = 0
    bytes: int = 0
    skipped: float = 0.0
    saved: float = 0.0
    method: str = ""
    time: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def operation(self) -> str:
        """What the kernel does, without the hash of all that it depends on."""
        named = re.fullmatch(r"qpc_(\w+)_[0-9a-f]{12}", self.kernel)
        return named[1] if named else self.kernel

    @property
    def in_float(self) -> bool:
        """Whether the kernel computes with floats from beginning to end."""
        return self.operation.startswith("float_")

    @property
    def done(self) -> float:
        """Multiply-accumulates that would take as many instructions as it executes."""
        return self.macs * (1 - self.skipped) * (1 - self.saved)

    def __str__(self) -> str:
        skips = f" (skips {self.skipped:.0%}, zero weights)" if self.skipped else ""
        saves = f" (saves {self.saved:.0%}, minimal filtering)" if self.saved else ""
        return f"{self.kernel}: {' + '.join(self.nodes)}{skips}{saves}"


@dataclass(frozen=True)
class Place:
    """Bytes that a step reads or writes.

    start: which of the inputs, weights or outputs they are, or where they begin in the arena.
    """

    kind: Kind
    start: int
    size: int

    def __str__(self) -> str:
        if self.kind == "arena":
            return f"arena {self.start}..{self.start + self.size}"
        return f"{self.kind} {self.start}"


@dataclass(frozen=True)
class Step(KernelUse):
    """One call of a kernel, in the order of the calls, and the memory that it works on.

    scratch: what only it needs, while it runs.
    """

    reads: tuple[Place, ...] = ()
    writes: tuple[Place, ...] = ()
    scratch: Place | None = None

    def lines(self) -> Iterator[str]:
        """What it does, how, and where."""
        yield f"{self.operation}: {' + '.join(self.nodes)}" if self.nodes else self.operation
        if self.method:
            yield f"{self.method}, estimated at {self.time:,.0f} instructions"
        if self.skipped:
            yield f"skips {self.skipped:.0%} of the multiplications, whose weights are zero"
        yield from self.notes
        values = list(dict.fromkeys(str(p) for p in self.reads if p.kind != "weight"))
        constants = sum(place.size for place in self.reads if place.kind == "weight")
        if constants:
            values.append(f"{constants:,} bytes of constants")
        scratch = f", scratch {self.scratch}" if self.scratch else ""
        yield f"{', '.join(values)} -> {', '.join(map(str, self.writes))}{scratch}"


@dataclass(frozen=True)
class FunctionPlan:
    """The plan for one batch size; arena: bytes of memory that its steps share."""

    steps: tuple[Step, ...]
    arena: int


@dataclass(frozen=True)
class Plan:
    """The plan of a compiled model: `print(compiled.plan)`.

    about: what it is for. functions: the plan for each batch size; none if the backend has none.
    """

    about: str
    functions: Mapping[int, FunctionPlan]

    def __str__(self) -> str:
        lines = [self.about]
        for batch, function in self.functions.items():
            steps = function.steps
            lines.append(f"batch size {batch}: {len(steps)} steps, arena {function.arena:,} bytes")
            for number, step in enumerate(steps, 1):
                first, *rest = step.lines()
                lines += [f"{number:4} {first}", *(f"       {line}" for line in rest)]
        return "\n".join(lines)
