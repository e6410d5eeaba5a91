"""Random networks, many of them: `python -m tests.robustness.random_modules --count 100 --seed 0`.

Each runs in a process of its own kind: one that dies or hangs is a fault of that seed, and the rest
go on. Prints every fault with the network as runnable Python and the command that repeats it, and
at the end the refusals by reason. Exits with 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.robustness.modules import random_module
from tests.robustness.outcome import Outcome

_PATIENCE_S = 600.0  # for one network, without the time in line for a core; a hang is a fault

_TELL = 100
"""After so many networks, what came of them is told."""


@dataclass(frozen=True)
class Job:
    """One random network: its seed, about how many steps it has, and what to do with it."""

    seed: int
    steps: int
    prune: bool

    def command(self) -> str:
        """What repeats it."""
        prune = " --prune" if self.prune else ""
        return (
            "python -m tests.robustness.random_modules "
            f"--count 1 --seed {self.seed} --steps {self.steps}{prune}"
        )

    def text(self, outcome: Outcome) -> str:
        """A fault in full."""
        source = random_module(self.seed, self.steps).source
        return (
            f"seed {self.seed}: {outcome.where}: {outcome.reason}\n{outcome.details}\n"
            f"{source}\nrepeat with: {self.command()}"
        )


def run(job: Job) -> Outcome:
    """What comes of a job, in this process."""
    from tests.robustness.checks import check_compiled, check_pruned
    from tests.robustness.outcome import outcome_of

    module = random_module(job.seed, job.steps)
    check = check_pruned if job.prune else check_compiled
    return outcome_of(lambda: check(module))


def outcomes(jobs: Iterator[Job], workers: int) -> Iterator[tuple[Job, Outcome]]:
    """What comes of jobs, each as soon as it is there."""
    pool: dict[Connection, _Worker] = {}
    for _ in range(workers):
        if (job := next(jobs, None)) is not None:
            worker = _Worker(job)
            pool[worker.connection] = worker
    while pool:
        ready = wait(list(pool), timeout=1.0)
        for worker in list(pool.values()):
            outcome = worker.outcome(ready=worker.connection in ready)
            if outcome is None:
                continue
            yield worker.job, outcome
            del pool[worker.connection]
            following = next(jobs, None)
            if following is None:
                worker.stop()
                continue
            if worker.alive():
                worker.give(following)
            else:
                worker = _Worker(following)
            pool[worker.connection] = worker


class _Worker:
    """A process that does jobs one after the other."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.give(job)

    def give(self, job: Job) -> None:
        self.job, self._since = job, self._elapsed()
        self.connection.send(job)

    def outcome(self, *, ready: bool) -> Outcome | None:
        """What came of the job, or None while it is at work."""
        if ready:
            try:
                received: Outcome = self.connection.recv()
            except (EOFError, ConnectionResetError):
                self._process.join()
                return Outcome("fault", "the process died", f"exit code {self._process.exitcode}")
            return received
        if self._elapsed() - self._since > _PATIENCE_S:
            self.stop()
            return Outcome("fault", "it hangs", f"no answer in {_PATIENCE_S:.0f} s")
        return None

    def _elapsed(self) -> float:
        return time.monotonic() - seconds_in_line(self._process.pid)

    def alive(self) -> bool:
        return self._process.is_alive()

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


def seconds_in_line(pid: int | None) -> float:
    """How long a process could have run and had no core; 0 where the system does not say.

    Beside others that go first, seconds of work take many minutes, which is no hang.
    """
    try:
        waited_ns = Path(f"/proc/{pid}/schedstat").read_text().split()[1]
    except (OSError, IndexError):
        return 0.0
    return int(waited_ns) / 1e9


def _serve(connection: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(run(job))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.random_modules")
    parser.add_argument("--count", type=int, default=100, help="how many networks")
    parser.add_argument("--seed", type=int, default=0, help="that of the first one")
    parser.add_argument("--steps", type=int, default=10, help="about how large they are")
    parser.add_argument("--prune", action="store_true", help="prune instead of compile")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after this time")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--source", action="store_true", help="only print the networks")
    given = parser.parse_args()
    seeds = range(given.seed, given.seed + given.count)
    if given.source:
        for seed in seeds:
            print(random_module(seed, given.steps).source)
        return 0
    return _campaign(
        [Job(seed, given.steps, given.prune) for seed in seeds], given.workers, given.seconds
    )


def _campaign(jobs: list[Job], workers: int, seconds: float) -> int:
    start = time.monotonic()
    verdicts: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    faults: list[str] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was found is said in any case
    with (
        contextlib.suppress(KeyboardInterrupt),
        # A worker may still write to it when the campaign is stopped.
        tempfile.TemporaryDirectory(prefix="qpc-random-", ignore_cleanup_errors=True) as cache,
    ):
        os.environ["QPC_CACHE_DIR"] = cache
        in_time = (job for job in jobs if time.monotonic() - start < seconds)
        for job, outcome in outcomes(in_time, workers):
            verdicts[outcome.verdict] += 1
            if sum(verdicts.values()) % _TELL == 0:
                print(f"up to seed {job.seed}: {dict(verdicts)}", flush=True)
            if outcome.verdict == "refused":
                refusals[f"{outcome.where}: {outcome.reason}"] += 1
            elif outcome.verdict == "fault":
                faults.append(f"{job.seed}: {outcome.where}: {outcome.reason}")
                print(job.text(outcome), "\n", "=" * 80, flush=True)
    total = sum(verdicts.values())
    print(f"{total} networks in {time.monotonic() - start:.0f} s: {dict(verdicts)}")
    for reason, count in refusals.most_common():
        print(f"{count:6d} refused: {reason}")
    for fault in faults:
        print(f"  FAULT {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
