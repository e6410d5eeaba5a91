"""How many samples several instances of a model get through in a second, side by side."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence

from qpc.bench.turns import Call

SECONDS = 1.0
"""How long the instances run."""


def throughput(calls: Sequence[Call], samples: int, seconds: float = SECONDS) -> float:
    """Samples in a second, of as many threads as there are calls, each of which calls its own.

    samples: of one call. All begin at the same time, and what is begun in time counts.
    """
    begin = threading.Barrier(len(calls) + 1)
    counts, errors = [0] * len(calls), list[BaseException]()

    def work(place: int) -> None:
        try:
            calls[place]()  # the first one does not count
            begin.wait()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                calls[place]()
                counts[place] += 1
        except BaseException as e:
            errors.append(e)
            begin.abort()

    workers = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(len(calls))]
    for worker in workers:
        worker.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        begin.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    if errors:
        raise next(
            (e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0]
        )
    return sum(counts) * samples / (time.perf_counter() - start)
