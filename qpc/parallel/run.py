"""Many independent jobs, done wherever an executor does them."""

from __future__ import annotations

import itertools
import json
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import closing, contextmanager
from typing import TypeAlias

from rich.progress import Progress

from qpc.errors import ConfigError, JobError
from qpc.parallel.in_process import InProcess
from qpc.parallel.journal import Journal
from qpc.parallel.work import Executor, Failed, Function, Outcome, Plain, Pool, Refused
from qpc.settings import require_count

Told: TypeAlias = Callable[[int, int], None]
"""A function that is told how many jobs are done, of how many."""


def run_jobs(
    function: Function,
    jobs: Mapping[str, Plain],
    *,
    executor: Executor | None = None,
    attempts: int = 3,
    journal: Journal | None = None,
    progress: str | Told | None = None,
    each: Callable[[str, Plain], None] | None = None,
) -> dict[str, Plain]:
    """Call `function` with the argument of every job; return the results in the order of the jobs.

    function: can be pickled, and is sent to every process once; what it prepares and keeps is there
    for the next job. It must give the same result for the same argument, as plain as JSON.
    jobs: arguments by name, of which no two are alike.
    executor: `InProcess()` (the default), `Processes(workers)` or `Ray(address)`.
    attempts: how often a job is tried that raises an exception, or whose process is lost.
    journal: results that are there are not computed again; others are kept as soon as they are.
    progress: what to call the work in a progress bar, or a function that is told how many jobs are
    done, of how many; None for neither.
    each: called with the name and the result of every job, those of the journal first.

    Raises JobError, which names the job, when its last attempt has failed; whatever QPCError a job
    raises, at once; ConfigError for results that are not plain. Then, and after Ctrl-C, nothing
    runs any more, and finished jobs are in the journal.
    """
    require_count("attempts", attempts)
    results: dict[str, Plain] = {}
    if journal is not None:
        found = {name: journal.find(name) for name in jobs}
        results = {name: known[0] for name, known in found.items() if known is not None}
    if each is not None:
        for name, known in results.items():
            each(name, known)
    left = {name: argument for name, argument in jobs.items() if name not in results}
    found_now = _results(function, left, executor or InProcess(), attempts)
    with _bar(progress, len(jobs), len(results)) as step, closing(found_now):
        for name, result in found_now:
            results[name] = _plain(name, result)
            if journal is not None:
                journal.record(name, results[name])
            if each is not None:
                each(name, results[name])
            step()
    return {name: results[name] for name in jobs}


def _results(
    function: Function, jobs: Mapping[str, Plain], executor: Executor, most: int
) -> Generator[tuple[str, Plain]]:
    if not jobs:
        return
    with executor.open(function) as pool:
        yield from _Course(pool, jobs, most).results()


class _Course:
    """Jobs that wait, run, and come back.

    Where the loss of one process takes all running jobs along, any of them may be to blame. Each is
    then tried alone, so that the one that ends its process is found out.
    """

    def __init__(self, pool: Pool, jobs: Mapping[str, Plain], attempts: int) -> None:
        self._pool, self._jobs, self._attempts = pool, jobs, attempts
        self._waiting, self._suspects = deque(jobs), deque[str]()
        self._running: dict[Future[Outcome], str] = {}
        self._failures: Counter[str] = Counter()

    def results(self) -> Iterator[tuple[str, Plain]]:
        """What came of the jobs, as they end."""
        while self._waiting or self._suspects or self._running:
            self._fill()
            lost: dict[str, str] = {}
            for name, future in self._finished():
                if error := future.exception():
                    lost[name] = f"its process was lost: {type(error).__name__}: {error}"
                    continue
                outcome = future.result()
                if isinstance(outcome, Refused):
                    raise outcome.error
                if isinstance(outcome, Failed):
                    self._fail(name, outcome.why, outcome.details)
                else:
                    yield name, outcome.result
            if lost:
                self._recover(lost)

    def _fill(self) -> None:
        """Hand out jobs: as many as the pool takes, but only one if it is a suspect."""
        if self._suspects:
            self._hand_out(self._suspects, 1)
        else:
            self._hand_out(self._waiting, self._pool.window or len(self._jobs))

    def _hand_out(self, queue: deque[str], room: int) -> None:
        while queue and len(self._running) < room:
            name = queue.popleft()
            try:
                future = self._pool.submit(self._jobs[name])
            except BrokenExecutor as e:  # a process ended while it had nothing to do
                future = Future()
                future.set_exception(e)
            self._running[future] = name

    def _finished(self) -> list[tuple[str, Future[Outcome]]]:
        finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
        if self._pool.one_fate and any(future.exception() for future in finished):
            finished, _ = wait(self._running)
        ended = [future for future in self._running if future in finished]
        return [(self._running.pop(future), future) for future in ended]

    def _recover(self, lost: Mapping[str, str]) -> None:
        self._pool.renew()
        if self._pool.one_fate and len(lost) > 1:
            self._suspects.extend(lost)
            return
        for name, why in lost.items():
            self._fail(name, why)

    def _fail(self, name: str, why: str, details: str | None = None) -> None:
        """Try a job again, after all others; or give up."""
        self._failures[name] += 1
        if self._failures[name] < self._attempts:
            self._waiting.append(name)
            return
        error = JobError(
            f"the job {name!r} failed {self._failures[name]} times: {why}",
            fix=_LOST if details is None else _RAISED,
        )
        if details:
            error.add_note(details.rstrip())
        raise error


_RAISED = "mend what it runs into; with a journal, the next run goes on from here"
_LOST = (
    "look for a crash or a lack of memory; a script must use other processes under "
    'if __name__ == "__main__":'
)


def _plain(name: str, result: Plain) -> Plain:
    """A result as it would be read from a journal: tuples are lists there."""
    try:
        plain: Plain = json.loads(json.dumps(result, allow_nan=False))
    except (TypeError, ValueError) as e:
        raise ConfigError(
            f"the result of the job {name!r} is not plain: {e}",
            fix="return finite numbers, texts, lists and dicts",
        ) from e
    return plain


@contextmanager
def _bar(title: str | Told | None, jobs: int, done: int) -> Iterator[Callable[[], None]]:
    """A progress bar, if it has a title; what is given is called after each job."""
    if title is None:
        yield lambda: None
        return
    if callable(title):
        title(done, jobs)
        counted = itertools.count(done + 1)
        yield lambda: title(next(counted), jobs)
        return
    with Progress(transient=True) as progress:
        task = progress.add_task(title, total=jobs, completed=done)
        yield lambda: progress.advance(task)
