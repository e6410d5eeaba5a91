"""Measure every kernel of a program where it stands.

An entry point of its own notes the time stamp counter between the kernels, so that the caches are
as they are in any run: a kernel that is timed by itself would find its weights in the nearest
cache. What is left between the kernels is measured in the same runs by the same clock: a difference
of two runs, or of two clocks, would be noise where other programs keep the machine busy.

Where they take the core in turns with this one, they do so at the same kernels in run after run,
whose medians would be several times too long. So with one thread runs that were interrupted, by
the clock of the thread, which stops meanwhile, are repeated.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from qpc.backends.common.plan import KernelUse
from qpc.backends.profile import KernelTime, Machine, Profile
from qpc.backends.tvm.measure.peak import peak
from qpc.backends.tvm.runtime.tensors import TensorProgram
from qpc.targets import Target

_TRIES = 4
"""Runs for each that is asked for, as long as others interrupt them."""
_INTERRUPTED = 1.05
"""Time by the wall over time by the thread's clock: reading two clocks makes a hundredth."""

_SIZES = tuple(2**n for n in (14, 17, 20, 23, 26))  # bytes, from the first cache to main memory


def profile(
    program: TensorProgram,
    uses: Sequence[KernelUse],
    inputs: Sequence[Tensor],
    *,
    target: Target,
    batch: int,
    threads: int,
    repeats: int,
) -> Profile:
    """Median times over `repeats` rounds; each runs the whole program once, and the peak.

    If none was left alone they are the least times.
    """
    loop = peak(target)
    stamps = program.empty_stamps(batch)
    rounds: list[list[int]] = []
    wholes, peaks, moments = [], [], []
    alone: list[bool] = []
    while len(alone) <= _TRIES * repeats and sum(alone[1:]) < repeats:  # the first one warms up
        begun = time.thread_time_ns()
        wholes.append(_us(lambda: program.run(batch, inputs, stamps)))
        own = (time.thread_time_ns() - begun) / 1e3
        alone.append(threads > 1 or wholes[-1] < _INTERRUPTED * own)
        moments.append(time.perf_counter_ns())
        rounds.append(stamps.tolist())
        peaks.append(_us(loop.run))
    ticks, whole = np.array(rounds), np.array(wholes)
    us_per_tick = (moments[-1] - moments[0]) / (ticks[-1, -1] - ticks[0, -1]) / 1e3
    # The moments may have come late, but no run took less time than its kernels.
    us_per_tick = min(us_per_tick, *(whole / np.ptp(ticks, axis=1)))
    kernels = np.diff(ticks[1:], axis=1) * us_per_tick
    parts = np.column_stack([kernels, whole[1:] - kernels.sum(axis=1)])
    left = np.array(alone[1:])
    typical = np.median(parts[left], axis=0) if left.any() else parts.min(axis=0)
    times, total = typical[:-1], float(typical.sum())
    loops = np.array(peaks[1:])
    speed = loop.macs / float(np.median(loops) if left.any() else loops.min()) / 1e3 * threads
    machine = Machine(speed, _copy_speeds(), float(times.min(initial=np.inf)))
    rows = [
        KernelTime.of(use.kernel, use.nodes, float(us), use.macs, use.bytes, machine, use.done)
        for use, us in zip(uses, times, strict=True)
    ]
    return Profile(tuple(rows), total, batch, threads, machine)


def _us(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e3


@functools.cache
def _copy_speeds() -> dict[int, float]:
    """1e9 bytes per second that a copy reads and writes, by the bytes it touches."""
    found = {}
    for size in _SIZES:
        source, target = (np.ones(size // 2, np.uint8) for _ in range(2))
        times = [_us(lambda: np.copyto(target, source)) for _ in range(9)]  # noqa: B023
        found[size] = size / min(times) / 1e3
    return found
