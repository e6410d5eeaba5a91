"""Time several calls in turns, so that a clock that moves and other programs meet all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Call = Callable[[], object]

PAUSE_S = 0.02
"""Seconds before a block, in which the threads of another runtime stop waiting actively."""
BLOCK_S = 0.02
"""Seconds of a block at the least: OpenVINO's threads, woken up, need several calls to be fast."""

_CLOCK_S = 1e-6  # no call is believed to be shorter


@dataclass(frozen=True)
class Block:
    """Milliseconds of each of several calls, and of processor time of a call on average."""

    times: tuple[float, ...]
    cpu_ms: float

    @property
    def median(self) -> float:
        """The median of the times."""
        return statistics.median(self.times)


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call over all rounds.

    median_ms: the median over rounds of their medians; p10_ms and p90_ms likewise. best_ms: the
    fastest call of all. p99_ms: that which 99 of 100 calls of all rounds do not exceed. cpu_ms: the
    median over rounds of the processor time of a call, which leaves out the time that other
    programs had the core.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    best_ms: float
    cpu_ms: float
    p99_ms: float = math.nan


@dataclass(frozen=True)
class Ratio:
    """Time of one call / time of another, within the same round: median and spread over rounds.

    best: the same of the fastest calls of all, which other programs disturb least.
    cpu: the median over rounds of the ratio of processor times.
    """

    median: float
    p10: float
    p90: float
    best: float
    cpu: float


def in_turns(
    calls: Mapping[str, Call],
    rounds: int,
    *,
    count: int = 5,
    block_s: float = BLOCK_S,
    pause_s: float = PAUSE_S,
) -> dict[str, list[Block]]:
    """Blocks of at least `count` timed calls and `block_s` seconds, one of each in every round.

    The order rotates from round to round. Every call runs a few times before the first round. An
    interrupt has a note that says what was lost.
    """
    names = list(calls)
    counts = {}
    for name in names:
        seconds = min(block(calls[name], 2, pause_s).times) / 1e3
        counts[name] = max(count, math.ceil(block_s / max(seconds, _CLOCK_S)))
    found: dict[str, list[Block]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        try:
            for name in names[first:] + names[:first]:
                found[name].append(block(calls[name], counts[name], pause_s))
        except KeyboardInterrupt as e:
            e.add_note(f"{number} of {rounds} rounds were measured, and are lost")
            raise
    return found


def block(call: Call, count: int, pause_s: float = PAUSE_S) -> Block:
    """Time `count` calls, after half as many, and at least two, that do not count."""
    time.sleep(pause_s)
    for _ in range(max(2, count // 2)):
        call()
    times = []
    cpu = time.process_time()
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return Block(tuple(times), (time.process_time() - cpu) / count * 1e3)


def times(blocks: list[Block]) -> Times:
    """The blocks of one call, summed up."""
    p10, p50, p90 = np.median([np.percentile(b.times, [10, 50, 90]) for b in blocks], axis=0)
    return Times(
        median_ms=float(p50),
        p10_ms=float(p10),
        p90_ms=float(p90),
        best_ms=min(min(b.times) for b in blocks),
        cpu_ms=statistics.median(b.cpu_ms for b in blocks),
        p99_ms=float(np.percentile([t for b in blocks for t in b.times], 99)),
    )


def ratio(ours: list[Block], theirs: list[Block]) -> Ratio:
    """How the blocks of one call compare with those of another, round by round."""
    pairs = list(zip(ours, theirs, strict=True))
    each = [a.median / b.median for a, b in pairs]
    return Ratio(
        median=statistics.median(each),
        p10=float(np.percentile(each, 10)),
        p90=float(np.percentile(each, 90)),
        best=min(min(b.times) for b in ours) / min(min(b.times) for b in theirs),
        cpu=statistics.median(a.cpu_ms / b.cpu_ms for a, b in pairs),
    )


def cpu_share(blocks: Mapping[str, list[Block]], threads: int) -> float:
    """Processor time of all calls as a share of what `threads` cores had to give."""
    every = [b for side in blocks.values() for b in side]
    cpu = sum(b.cpu_ms * len(b.times) for b in every)
    return cpu / sum(sum(b.times) for b in every) / threads
