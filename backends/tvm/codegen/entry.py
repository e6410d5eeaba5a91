"""Entry points: one C function that runs a whole model.

An entry point calls kernels one after the other, so a call of the model costs one call from
outside, whatever the number of its layers. It takes a table of addresses, of 64 bits each, and
returns 0:

    arena, inputs, outputs, weights, times

Tensors in between, and what kernels need for themselves, lie in the arena at fixed places. Kernels
take addresses and return 0, too; if one does not, the entry point ends there, with another number.
A second entry point does the same and notes the time before the first and after every call, in the
array of int64 whose address ends the table; the others leave it alone.

All that is decided about an entry point is its `EntryPlan`. An `EntryWriter` only writes it down,
in a form of which the tools for a target make machine code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from qpc.backends.common.plan import Place
from qpc.backends.tvm.codegen.cache import KernelCache
from qpc.runtime.abi import TIMED
from qpc.targets import Target


@dataclass(frozen=True)
class Call:
    """One call of a kernel, on what it reads, what it writes, and what only it needs meanwhile."""

    kernel: str
    reads: tuple[Place, ...]
    writes: tuple[Place, ...]
    scratch: Place | None = None

    @property
    def arguments(self) -> tuple[Place, ...]:
        """Whose addresses the kernel takes, in order."""
        return (*self.reads, *self.writes, *((self.scratch,) if self.scratch else ()))

    def __str__(self) -> str:
        reads, writes = (", ".join(map(str, places)) for places in (self.reads, self.writes))
        scratch = f", scratch {self.scratch}" if self.scratch else ""
        return f"{self.kernel}: {reads} -> {writes}{scratch}"


@dataclass(frozen=True)
class Copy:
    """An output that no call writes: all bytes of `source`."""

    source: Place
    to: Place

    def __str__(self) -> str:
        return f"copy {self.source.size} bytes: {self.source} -> {self.to}"


@dataclass(frozen=True)
class EntryPlan:
    """What an entry point does: the calls in their order, then the copies.

    name: the symbol of the function. batch: the batch size that it is for. inputs, outputs,
    weights: how many of them the table has. arena: bytes. timed: whether times are noted.
    """

    name: str
    batch: int
    inputs: int
    outputs: int
    weights: int
    arena: int
    calls: tuple[Call, ...]
    copies: tuple[Copy, ...] = ()
    timed: bool = False

    @property
    def with_times(self) -> EntryPlan:
        """The plan of the entry point that also notes times."""
        return replace(self, name=self.name + TIMED, timed=True)

    @property
    def times(self) -> int:
        """Where in the table the address of the array for times is: its last item."""
        return 1 + self.inputs + self.outputs + self.weights

    def address(self, place: Place) -> tuple[int, int]:
        """Where a place begins: an item of the table, and how many bytes behind that address."""
        if place.kind == "arena":
            return 0, place.start
        before = {"input": 0, "output": self.inputs, "weight": self.inputs + self.outputs}
        return 1 + before[place.kind] + place.start, 0

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.name}: batch size {self.batch}, arena {self.arena:,} bytes"
        counts = f"inputs {self.inputs}, outputs {self.outputs}, weights {self.weights}"
        yield f"table: arena, {counts}, times"
        if self.timed:
            yield "notes the time before the first and after every call"
        yield from (f"{number:4} {call}" for number, call in enumerate(self.calls, 1))
        yield from (f"     {copy}" for copy in self.copies)


class EntryWriter(Protocol):
    """Writes entry points in one form."""

    def write(self, plans: Sequence[EntryPlan], target: Target, cache: KernelCache) -> bytes:
        """One object of the target's format, in which every plan has its function.

        cache: where what takes long to make can be kept.
        """
