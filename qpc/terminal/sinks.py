"""Where events go: a moving line on a terminal, lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from qpc.terminal.events import Event, Sink, in_words

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_FIRST_S, _MOST_S = 2.0, 30.0
"""Seconds between two lines about the same work, at first and at the most."""
_GROWTH = 0.5
"""So much of the time that was spent passes before the next line, so that long runs fill no log."""


class Silent:
    """Shows nothing."""

    def show(self, event: Event) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing to do."""


@dataclass
class Lines:
    """A line at the beginning, more at growing intervals, and one at an end that came late."""

    stream: TextIO
    _last: float = 0.0

    def show(self, event: Event) -> None:
        """Write a line, unless one was written a moment ago."""
        if not self._is_due(event):
            return
        self._last = event.at_s
        self.stream.write(f"[{in_words(event.at_s):>6}] {event.line()}\n")
        self.stream.flush()

    def _is_due(self, event: Event) -> bool:
        if event.kind in ("begin", "note"):
            return True
        if event.kind == "end":
            return event.spent_s >= _FIRST_S
        wait = min(max(_FIRST_S, _GROWTH * event.spent_s), _MOST_S)
        return event.at_s - self._last >= wait

    def close(self) -> None:
        """Nothing to do."""


@dataclass
class JsonLines:
    """Every event as a JSON object in a line of its own."""

    stream: TextIO

    def show(self, event: Event) -> None:
        """Write it."""
        self.stream.write(json.dumps(event.plain()) + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Nothing to do."""


class Moving:
    """One line on a terminal that changes, and is gone when the work is done."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def show(self, event: Event) -> None:
        """Change the line; notes stay above it."""
        if event.kind == "note":
            self._note(event.text)
            return
        if event.kind == "end":
            self.close()
            return
        bar = self._open()
        assert self._task is not None
        left = "" if event.left_s is None else f"{in_words(event.left_s)} left"
        bar.update(
            self._task,
            description=event.text,
            completed=event.done,
            total=event.total,
            left=left,
        )

    def close(self) -> None:
        """Remove the line."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None

    def _note(self, text: str) -> None:
        from rich.text import Text

        if self._bar is None:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        else:
            self._bar.console.print(Text(text), soft_wrap=True)

    def _open(self) -> Progress:
        if self._bar is not None:
            return self._bar
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[left]}", markup=False),
        )
        self._bar = Progress(*columns, console=Console(file=self._stream), transient=True)
        self._task = self._bar.add_task("", total=None, left="")
        self._bar.start()
        return self._bar


@dataclass
class Late:
    """Shows another sink what takes long: the rest is over before anyone could read it."""

    sink: Sink
    _shown: bool = False

    def show(self, event: Event) -> None:
        """Hand the event on, unless the work it is about has only begun."""
        if event.kind in ("progress", "note") and max(event.at_s, event.spent_s) >= _FIRST_S:
            self._shown = True
        if self._shown:
            self.sink.show(event)

    def close(self) -> None:
        """Nothing more is shown."""
        self.sink.close()


def sink_for(stream: TextIO, *, quiet: bool, as_json: bool) -> Sink:
    """The sink for a stream, as the options of a command ask for it."""
    if quiet:
        return Silent()
    if as_json:
        return JsonLines(stream)
    return Moving(stream) if stream.isatty() else Lines(stream)
