"""The reporter: through it a command says what it does while it works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import length_hint
from types import TracebackType
from typing import TypeVar

from qpc.terminal.events import Event, Kind, Sink
from qpc.terminal.sinks import Silent

_T = TypeVar("_T")
BEAT_S = 1.0
"""Seconds between two events at the most while anything is done."""


@dataclass
class Phase:
    """One piece of work; `done` of `total` parts of it are done."""

    text: str
    total: int | None
    begun: float
    done: int = 0
    detail: str = ""

    def left_s(self, spent: float) -> float | None:
        """Seconds that may be left: as long for each part as for those that are done."""
        if not self.total or not self.done:
            return None
        return spent / self.done * max(self.total - self.done, 0)

    @property
    def words(self) -> str:
        """What is done, in words."""
        return f"{self.text} ({self.detail})" if self.detail else self.text


class Reporter:
    """Says what is done to a sink: when it begins, when it gets on, and once in every beat.

    lost, kept: what Ctrl-C says, if it comes now: what is lost, and how to go on. settings: all
    options of the command that have a value, by name.
    """

    def __init__(
        self,
        sink: Sink | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        beat_s: float = BEAT_S,
    ) -> None:
        self.lost, self.kept = "nothing was written", ""
        self.settings: Mapping[str, object] = {}
        self._sink, self._clock, self._beat_s = sink or Silent(), clock, beat_s
        self._start = clock()
        self._phases: list[Phase] = []
        self._lock = threading.RLock()
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None

    # --- what commands call ----------------------------------------------------------------------

    @contextmanager
    def phase(self, text: str, total: int | None = None) -> Iterator[Phase]:
        """Something begins that may take longer than two seconds, and is done at the end.

        total: of how many parts of about the same size it consists; call `advance` after each.
        """
        phase = Phase(text, total, self._now())
        with self._lock:
            self._phases.append(phase)
            self._say("begin", phase)
            self._start_beating()
        try:
            yield phase
        finally:
            self._end(phase)

    @property
    def doing(self) -> str:
        """What is being done: the innermost phase; empty if nothing is."""
        with self._lock:
            return self._phases[-1].text if self._phases else ""

    def advance(self, parts: int = 1) -> None:
        """So many parts more of the innermost phase are done."""
        with self._lock:
            if self._phases:
                self._phases[-1].done += parts
                self._say("progress", self._phases[-1])

    def show(self, text: str, done: int, total: int) -> None:
        """Which of how many unequal steps is being done, for what knows its time left itself."""
        self.detail(f"step {min(done + 1, total)} of {total}: {text}")

    def told(self, done: int, total: int) -> None:
        """How much of the innermost phase is done, for functions that tell it."""
        with self._lock:
            if self._phases:
                self._phases[-1].done, self._phases[-1].total = done, total
                self._say("progress", self._phases[-1])

    def detail(self, text: str) -> None:
        """Which part of the innermost phase is being done."""
        with self._lock:
            if self._phases:
                self._phases[-1].detail = text
                self._say("progress", self._phases[-1])

    def each(self, items: Iterable[_T], text: str, total: int | None = None) -> Iterator[_T]:
        """The items, one after the other, as a phase with as many parts."""
        with self.phase(text, total or length_hint(items) or None):
            for item in items:
                yield item
                self.advance()

    def note(self, text: str) -> None:
        """Something that people should know, which is no result."""
        with self._lock:
            self._sink.show(Event(self._now(), "note", text))

    def mute(self) -> None:
        """Say nothing any more: another process speaks."""
        with self._lock:
            self._sink.close()
            self._sink = Silent()

    # --- beats -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Nothing more is said."""
        with self._lock:
            thread, self._thread = self._thread, None
            if self._stop is not None:
                self._stop.set()
            self._phases.clear()
            self._sink.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _end(self, phase: Phase) -> None:
        with self._lock:
            if phase not in self._phases:
                return
            self._phases.remove(phase)
            self._say("end", phase)
            if self._phases:
                self._say("progress", self._phases[-1])

    def _start_beating(self) -> None:
        if self._thread is not None:
            return
        stop = self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, args=(stop,), name="qpc-progress", daemon=True
        )
        self._thread.start()

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(self._beat_s):
            self.beat()

    def beat(self) -> None:
        """Say what is being done, if anything is."""
        with self._lock:
            if self._phases:
                self._say("progress", self._phases[-1])

    def _say(self, kind: Kind, phase: Phase) -> None:
        now = self._now()
        text = phase.text if kind != "progress" else phase.words
        spent = now - phase.begun
        self._sink.show(Event(now, kind, text, spent, phase.done, phase.total, phase.left_s(spent)))

    def _now(self) -> float:
        return self._clock() - self._start
