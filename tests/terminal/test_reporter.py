from __future__ import annotations

import io
import itertools
import json

import pytest

from qpc.terminal.events import Event, in_words
from qpc.terminal.reporter import Reporter
from qpc.terminal.sinks import JsonLines, Late, Lines, Moving, Silent, sink_for


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """Keeps all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def show(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        """Nothing to do."""


def silences(events: list[Event]) -> list[float]:
    """Seconds between events."""
    times = [event.at_s for event in events]
    return [b - a for a, b in itertools.pairwise(times)]


def reporter(sink: Kept | Lines | Late, clock: Clock) -> Reporter:
    return Reporter(sink, clock=clock, beat_s=1e6)  # beats only where a test asks for one


def test_a_phase_says_how_far_it_is_and_how_long_it_may_take() -> None:
    kept, clock = Kept(), Clock()
    with reporter(kept, clock) as said, said.phase("compiling", 4):
        clock.now += 3
        said.advance()
        said.detail("conv1")
    assert [event.line() for event in kept.events] == [
        "compiling",
        "compiling: 1 of 4, 9 s left",
        "compiling (conv1): 1 of 4, 9 s left",
        "compiling, done",
    ]


def test_every_item_is_a_part_and_the_inner_phase_is_the_one_that_is_told() -> None:
    kept, clock = Kept(), Clock()
    with reporter(kept, clock) as said, said.phase("quantizing"):
        assert list(said.each("ab", "calibrating")) == ["a", "b"]
        said.told(1, 3)
    told = [(e.kind, e.text, e.done, e.total) for e in kept.events]
    assert told == [
        ("begin", "quantizing", 0, None),
        ("begin", "calibrating", 0, 2),
        ("progress", "calibrating", 1, 2),
        ("progress", "calibrating", 2, 2),
        ("end", "calibrating", 2, 2),
        ("progress", "quantizing", 0, None),
        ("progress", "quantizing", 1, 3),
        ("end", "quantizing", 1, 3),
    ]


def test_work_that_says_nothing_is_told_in_every_beat_by_itself() -> None:
    import threading

    kept, heard = Kept(), threading.Event()

    def show(event: Event) -> None:
        kept.events.append(event)
        if len(kept.events) > 3:
            heard.set()

    kept.show = show  # type: ignore[method-assign]  # a sink that wakes the test up
    with Reporter(kept, beat_s=0.001) as said, said.phase("thinking"):
        assert heard.wait(30)
    assert {event.text for event in kept.events} == {"thinking"}


def test_silence_is_found_by_the_clock_of_the_events() -> None:
    kept, clock = Kept(), Clock()
    with reporter(kept, clock) as said, said.phase("compiling"):
        for _ in range(20):
            clock.now += 1
            said.beat()
    assert max(silences(kept.events)) <= 2


def test_lines_are_written_at_growing_intervals() -> None:
    stream, clock = io.StringIO(), Clock()
    with reporter(Lines(stream), clock) as said, said.phase("compiling"):
        for _ in range(200):
            clock.now += 1
            said.beat()
    lines = stream.getvalue().splitlines()
    assert lines[:3] == ["[   0 s] compiling", "[   2 s] compiling", "[   4 s] compiling"]
    assert 10 < len(lines) < 30, "long work fills no log"
    assert lines[-1] == "[ 3 min] compiling, done"


def test_what_is_done_at_once_takes_one_line() -> None:
    stream, clock = io.StringIO(), Clock()
    with reporter(Lines(stream), clock) as said:
        with said.phase("reading"):
            clock.now += 1
        said.note("the input is taken to be 1x3x224x224")
    assert stream.getvalue() == (
        "[   0 s] reading\n[   1 s] the input is taken to be 1x3x224x224\n"
    )


def test_json_lines_hold_every_event() -> None:
    stream, clock = io.StringIO(), Clock()
    sink = JsonLines(stream)
    with Reporter(sink, clock=clock, beat_s=1e6) as said, said.phase("compiling", 2):
        clock.now += 1
        said.advance()
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert found[1] == {
        "event": "progress",
        "at_s": 1.0,
        "text": "compiling",
        "spent_s": 1.0,
        "done": 1,
        "total": 2,
        "left_s": 1.0,
    }


def test_a_terminal_shows_one_line_that_moves_and_is_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]  # it plays one
    sink = sink_for(stream, quiet=False, as_json=False)
    assert isinstance(sink, Moving)
    with Reporter(sink, beat_s=1e6) as said:
        with said.phase("compiling [a]", 2):
            said.advance()
            said.note("a note")
        said.note("another note")
    assert "compiling [a]" in stream.getvalue()
    assert stream.getvalue().endswith("another note\n")


def test_the_sink_is_what_the_options_ask_for() -> None:
    stream = io.StringIO()
    assert isinstance(sink_for(stream, quiet=True, as_json=True), Silent)
    assert isinstance(sink_for(stream, quiet=False, as_json=True), JsonLines)
    assert isinstance(sink_for(stream, quiet=False, as_json=False), Lines)


def test_nothing_is_said_after_the_end_nor_by_who_is_mute() -> None:
    kept, clock = Kept(), Clock()
    said = reporter(kept, clock)
    with said.phase("compiling"):
        said.close()
    said.advance()
    assert [event.kind for event in kept.events] == ["begin"]
    other = reporter(kept, clock)
    other.mute()
    other.note("unheard")
    assert len(kept.events) == 1


def test_times_are_in_words() -> None:
    assert [in_words(s) for s in (3, 90, 5400)] == ["3 s", "2 min", "1.5 h"]


def test_what_is_over_within_two_seconds_is_not_shown() -> None:
    kept, clock = Kept(), Clock()
    with reporter(Late(kept), clock) as said, said.phase("calibrating", 4):
        clock.now += 1
        said.advance()
        assert kept.events == []
        clock.now += 1
        said.advance()
    assert [(e.kind, e.done) for e in kept.events] == [("progress", 2), ("end", 2)]


def test_a_reporter_knows_what_is_done_now() -> None:
    with Reporter() as said:
        assert said.doing == ""
        with said.phase("outer"), said.phase("inner"):
            assert said.doing == "inner"
