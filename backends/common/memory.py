"""Where tensors lie while a model runs: one arena, whose memory is used again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qpc.runtime.pages import ALIGNMENT as ALIGNMENT
from qpc.runtime.pages import aligned as aligned


@dataclass(frozen=True)
class Lifetime:
    """Bytes that are needed from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether there is a step at which both are needed."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Arena:
    """The offset of every tensor in the arena, and its size, in bytes."""

    offsets: tuple[int, ...]
    size: int


def arrange(lifetimes: Sequence[Lifetime]) -> Arena:
    """Place tensors so that those needed at the same time do not overlap.

    The largest goes first; each goes to the lowest place that is free for as long as it lives.
    Offsets are multiples of ALIGNMENT.
    """
    offsets = [0] * len(lifetimes)
    placed: list[int] = []  # in the order of their offsets
    for i in sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].size, i)):
        start = 0
        for other in placed:
            if lifetimes[other].meets(lifetimes[i]):
                if start + lifetimes[i].size <= offsets[other]:
                    break
                start = max(start, aligned(offsets[other] + lifetimes[other].size))
        offsets[i] = start
        placed.append(i)
        placed.sort(key=lambda i: offsets[i])
    size = max((offset + t.size for offset, t in zip(offsets, lifetimes, strict=True)), default=0)
    return Arena(tuple(offsets), aligned(size))
