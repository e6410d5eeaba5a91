from __future__ import annotations

import io

import pytest

from qpc.compression.progress import Lines, Progress, in_words, planned, shown


class Heard:
    def __init__(self) -> None:
        self.said: list[tuple[str, int, int]] = []

    def show(self, text: str, done: int, total: int) -> None:
        self.said.append((text, done, total))


def test_the_plan_has_all_rounds() -> None:
    assert planned(["s"], ["r"], ["f"], 2) == [
        *("baseline", "s", "f", "candidate"),
        *("r", "f", "candidate"),
        *("r", "f", "candidate"),
    ]


def test_the_time_that_is_left_is_known_after_one_round() -> None:
    heard = Heard()
    progress = Progress((heard,), planned([], ["r"], [], 2))
    for kind, seconds in (("baseline", 1), ("candidate", 2), ("r", 100), ("candidate", 4)):
        progress.begin(kind, kind)
        progress.done(kind, seconds)
    progress.begin("r", "round 2")
    progress.tell("epoch 1 of 3")
    assert heard.said[0] == ("baseline", 0, 6)
    assert "left" not in heard.said[2][0]
    text, done, total = heard.said[-1]
    assert text == "round 2, epoch 1 of 3; at most 2 min left"
    assert (done, total) == (4, 6)


def test_steps_that_an_earlier_run_has_done_count() -> None:
    progress = Progress((), planned([], ["r"], [], 1))
    for kind in ("baseline", "candidate", "r", "candidate"):
        progress.done(kind, 1.0)
    assert progress.left == []
    assert progress.remaining() is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (90, "2 min"), (5400, "1.5 h")]
)
def test_times_are_told_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_lines_are_written_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with shown(True, stream) as sink:
        assert isinstance(sink, Lines)
        sink.show("pruning", 1, 3)
    assert stream.getvalue() == "[   0 s] pruning\n"
    with shown(False, stream) as sink:
        assert sink is None


def test_a_line_moves_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with shown(True, Terminal()) as sink:
        assert sink is not None
        assert not isinstance(sink, Lines)
        sink.show("[pruning]", 1, 3)  # brackets are no markup
