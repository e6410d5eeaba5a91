"""What a run does and how long it may take: a moving line on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TextIO

_MINUTE, _HOUR = 60, 3600  # seconds


class Sink(Protocol):
    """Where progress is shown."""

    def show(self, text: str, done: int, total: int) -> None:
        """Show what is being done; `done` of `total` steps are."""


@dataclass
class Progress:
    """Knows what is left to do, and how long such things took.

    left: the kinds of steps that may come, in order; those of rounds once for each round.
    seconds: what steps took that are done, by their kind.
    """

    sinks: Sequence[Sink] = ()
    left: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    _done: int = 0
    _now: str = ""
    _begun: float = 0.0

    def begin(self, kind: str, text: str) -> None:
        """A step of a kind begins."""
        if kind in self.left:
            del self.left[: self.left.index(kind)]
        self._now, self._begun = text, time.perf_counter()
        self.tell("")

    def done(self, kind: str, seconds: float) -> None:
        """A step is done, now or in an earlier run."""
        self.seconds.setdefault(kind, []).append(seconds)
        self._done += 1
        if kind in self.left:
            del self.left[: self.left.index(kind) + 1]

    def tell(self, detail: str) -> None:
        """Say more about the step that is being done."""
        if not self.sinks:
            return
        text = f"{self._now}, {detail}" if detail else self._now
        left = self.remaining()
        if left is not None:
            text += f"; at most {in_words(left)} left"
        for sink in self.sinks:
            sink.show(text, self._done, self._done + len(self.left))

    def remaining(self) -> float | None:
        """Seconds that may be left; None if a kind of step comes that was never done."""
        if not self.left or any(kind not in self.seconds for kind in self.left):
            return None
        expected = sum(sum(s) / len(s) for s in map(self.seconds.__getitem__, self.left))
        return max(expected - (time.perf_counter() - self._begun), 0.0)


def in_words(seconds: float) -> str:
    """A time as people say it: `40 s`, `12 min`, `3.5 h`."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < _HOUR else f"{seconds / _HOUR:.1f} h"


@dataclass
class Lines:
    """A line for everything that is said, with the time since the beginning."""

    stream: TextIO
    _begun: float = field(default_factory=time.perf_counter)

    def show(self, text: str, done: int, total: int) -> None:
        """Write a line."""
        seconds = time.perf_counter() - self._begun
        self.stream.write(f"[{in_words(seconds):>6}] {text}\n")
        self.stream.flush()


@contextmanager
def _moving(stream: TextIO) -> Iterator[Sink]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TimeElapsedColumn(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Bar(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("", total=None)

        class Moving:
            def show(self, text: str, done: int, total: int) -> None:
                bar.update(task, description=text, completed=done, total=total)

        yield Moving()


def shown(wanted: bool | Sink, stream: TextIO | None = None) -> AbstractContextManager[Sink | None]:
    """Where to show progress: there, if it is a sink; nowhere, if it is not wanted."""
    if not isinstance(wanted, bool):
        return nullcontext(wanted)
    if not wanted:
        return nullcontext()
    target = stream or sys.stderr
    return _moving(target) if target.isatty() else nullcontext(Lines(target))


def planned(
    start: Sequence[str], rounds: Sequence[str], finish: Sequence[str], at_most: int
) -> list[str]:
    """The kinds of steps of a run, in order, if it goes through all rounds."""
    judged = [*finish, "candidate"]
    return ["baseline", *start, *judged, *([*rounds, *judged] * at_most)]
