"""Measure every kernel of a program where it stands.

An entry point of its own notes the time stamp counter between the kernels, so that the caches are
as they are in any run: a kernel that is timed by itself would find its weights in the nearest
cache.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from qpc.backends.profile import KernelTime, Machine, Profile
from qpc.backends.tvm.measure.peak import peak
from qpc.backends.tvm.report import KernelUse
from qpc.backends.tvm.runtime.program import Program
from qpc.target import Target

_SIZES = tuple(2**n for n in (14, 17, 20, 23, 26))  # bytes, from the first cache to main memory
_OWN_TIME = time.thread_time_ns
"""Leaves out the time that other programs had the core; it cannot see the work of other threads."""


def profile(
    program: Program,
    uses: Sequence[KernelUse],
    inputs: Sequence[Tensor],
    *,
    target: Target,
    batch: int,
    threads: int,
    repeats: int,
) -> Profile:
    """Median times over `repeats` rounds; in each the whole program, its steps and the peak."""
    loop = peak(target)
    clock = _OWN_TIME if threads == 1 else time.perf_counter_ns
    whole, peaks = [], []
    rounds: list[list[int]] = []
    moments: list[int] = []
    for number in range(repeats + 1):
        total = _us(lambda: program.run(batch, inputs), clock)
        moments.append(time.perf_counter_ns())
        rounds.append(program.time_stamps(batch, inputs))
        if number:  # the first round warms up
            whole.append(total)
            peaks.append(_us(loop.run, clock))
    stamps = np.array(rounds)
    ns_per_tick = (moments[-1] - moments[0]) / (stamps[-1, 0] - stamps[0, 0])
    times = np.median(np.diff(stamps[1:], axis=1), axis=0) * ns_per_tick / 1e3
    speed = loop.macs / statistics.median(peaks) / 1e3 * threads
    machine = Machine(speed, _copy_speeds(), float(times.min(initial=np.inf)))
    rows = [
        KernelTime.of(use.kernel, use.nodes, float(us), use.macs, use.bytes, machine, use.done)
        for use, us in zip(uses, times, strict=True)
    ]
    return Profile(tuple(rows), statistics.median(whole), batch, threads, machine)


def _us(call: Callable[[], object], clock: Callable[[], int] = _OWN_TIME) -> float:
    start = clock()
    call()
    return (clock() - start) / 1e3


@functools.cache
def _copy_speeds() -> dict[int, float]:
    """1e9 bytes per second that a copy reads and writes, by the bytes it touches."""
    found = {}
    for size in _SIZES:
        source, target = (np.ones(size // 2, np.uint8) for _ in range(2))
        times = [_us(lambda: np.copyto(target, source)) for _ in range(9)]  # noqa: B023
        found[size] = size / min(times) / 1e3
    return found
