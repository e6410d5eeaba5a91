"""Events: what a command says while it works, at least once in every beat of a clock."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

Kind = Literal["begin", "progress", "end", "note"]
_MINUTE, _HOUR = 60, 3600  # seconds


@dataclass(frozen=True)
class Event:
    """One thing that is said.

    at_s: seconds since the command began; spent_s: since this piece of work did. text: what is
    being done, or a note. done, total: how much of it is done, in pieces of equal size; None if
    nobody knows how many there are. left_s: seconds that may be left; None if nobody knows.
    """

    at_s: float
    kind: Kind
    text: str
    spent_s: float = 0.0
    done: int = 0
    total: int | None = None
    left_s: float | None = None

    def line(self) -> str:
        """The event in words, without the time at which it was said."""
        if self.kind == "note":
            return self.text
        parts = [self.text]
        if self.total and self.kind == "progress":
            parts.append(f": {self.done} of {self.total}")
        if self.left_s is not None and self.kind == "progress":
            parts.append(f", {in_words(self.left_s)} left")
        if self.kind == "end":
            parts.append(", done")
        return "".join(parts)

    def plain(self) -> dict[str, Any]:
        """The event as JSON values."""
        values = {k: v for k, v in asdict(self).items() if k != "kind"}
        rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}
        return {"event": self.kind} | rounded


class Sink(Protocol):
    """Where events go."""

    def show(self, event: Event) -> None:
        """Show an event, or leave it out: events are many."""

    def close(self) -> None:
        """Nothing more is shown."""


def in_words(seconds: float) -> str:
    """A time as people say it: `40 s`, `12 min`, `3.5 h`."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < _HOUR else f"{seconds / _HOUR:.1f} h"
