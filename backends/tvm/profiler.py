"""Measure every kernel of a program where it stands.

The calls that one run makes are recorded with their arguments. Making them again one after the
other, on the same memory, leaves the caches as they are in a run: a kernel that is timed by itself
would find its weights in the nearest cache.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

import numpy as np
import tvm
from torch import Tensor

from qpc.backends.profile import KernelTime, Machine, Profile
from qpc.backends.tvm.build import tvm_target
from qpc.backends.tvm.kernels.emit import Flat, prim_func
from qpc.backends.tvm.kernels.kernel import TensorType
from qpc.backends.tvm.peak import peak
from qpc.backends.tvm.program import Program, RecordedCall
from qpc.backends.tvm.report import KernelUse
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
    """Median times over `repeats` rounds; in each the whole program, its calls and the peak."""
    calls = program.record(batch, inputs)
    loop, nothing = peak(target), _nothing(target)
    clock = _OWN_TIME if threads == 1 else time.perf_counter_ns
    whole, peaks, idle = [], [], []
    each: list[list[float]] = [[] for _ in calls]
    for number in range(repeats + 1):
        total = _us(lambda: program.run(batch, inputs), clock)
        times = program.in_its_thread(lambda: [_us(call.run, clock) for call in calls])
        if number == 0:
            continue  # the round that warms up
        whole.append(total)
        for found, us in zip(each, times, strict=True):
            found.append(us)
        peaks.append(_us(loop.run, clock))
        idle.append(min(_us(nothing, clock) for _ in range(10)))
    call_us = statistics.median(idle)
    speed = loop.macs / statistics.median(peaks) / 1e3 * threads
    machine = Machine(speed, _copy_speeds(), call_us)
    rows = [
        # What a call costs from here is not what it costs the program.
        KernelTime.of(
            call.kernel,
            use.nodes if use else (),
            max(statistics.median(times) - call_us, 0.0),
            use.macs if use else 0,
            call.bytes,
            machine,
        )
        for call, use, times in zip(calls, _uses_of(calls, uses), each, strict=True)
    ]
    return Profile(tuple(rows), statistics.median(whole), batch, threads, machine)


def _uses_of(calls: Sequence[RecordedCall], uses: Sequence[KernelUse]) -> list[KernelUse | None]:
    """What is known about each call; the compiler noted the calls of a kernel in their order."""
    waiting: defaultdict[str, deque[KernelUse]] = defaultdict(deque)
    for use in uses:
        waiting[use.kernel].append(use)
    return [waiting[c.kernel].popleft() if waiting[c.kernel] else None for c in calls]


def _us(call: Callable[[], object], clock: Callable[[], int] = _OWN_TIME) -> float:
    start = clock()
    call()
    return (clock() - start) / 1e3


@functools.cache
def _nothing(target: Target) -> Callable[[], object]:
    """A call of a kernel with as many arguments as a layer has, which does next to nothing."""

    def body(*arguments: Flat) -> None:
        arguments[-1].store(0, arguments[0].load(0))

    types = [TensorType((16,), "int32")] * 5
    module = tvm.IRModule({"nothing": prim_func("nothing", types, body)})
    function = tvm.compile(module, target=tvm_target(target))["nothing"]
    tensors = [tvm.runtime.tensor(np.zeros(t.shape, t.dtype)) for t in types]
    return functools.partial(function, *tensors)


@functools.cache
def _copy_speeds() -> dict[int, float]:
    """1e9 bytes per second that a copy reads and writes, by the bytes it touches."""
    found = {}
    for size in _SIZES:
        source, target = (np.ones(size // 2, np.uint8) for _ in range(2))
        times = [_us(lambda: np.copyto(target, source)) for _ in range(9)]  # noqa: B023
        found[size] = size / min(times) / 1e3
    return found
