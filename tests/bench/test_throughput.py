from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from qpc.bench.throughput import throughput


def test_every_instance_is_called_by_a_thread_of_its_own() -> None:
    seen: list[set[int]] = [set(), set()]
    calls = [lambda place=place: seen[place].add(threading.get_ident()) for place in range(2)]
    assert throughput(calls, samples=4, seconds=0.01) > 0
    assert [len(threads) for threads in seen] == [1, 1]
    assert seen[0].isdisjoint(seen[1])


def test_an_instance_that_hangs_does_not_keep_the_process() -> None:
    daemons: list[bool] = []
    throughput([lambda: daemons.append(threading.current_thread().daemon)], 1, seconds=0.01)
    assert set(daemons) == {True}


def test_samples_of_all_calls_count_but_the_first_of_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(100))  # a second later each time that somebody looks
    monkeypatch.setattr("qpc.bench.throughput.threading.Barrier", Together)
    monkeypatch.setattr("qpc.bench.throughput.time.perf_counter", lambda: next(clock))
    calls: list[int] = []
    # The instance sees 0 and works until 3: twice, at 1 and at 2. Then the time is 4, and then 5.
    monkeypatch.setattr("qpc.bench.throughput.threading.Thread", AtOnce)
    assert throughput([lambda: calls.append(1)], samples=6, seconds=3) == 2 * 6 / (5 - 4)
    assert len(calls) == 3


class Together:
    """A barrier at which nobody waits."""

    def __init__(self, parties: int) -> None: ...

    def wait(self) -> None: ...


class AtOnce:
    """A thread that has done its work when it was started."""

    def __init__(self, target: Callable[..., None], args: tuple[int], daemon: bool) -> None:
        self._work: Callable[[], None] = lambda: target(*args)

    def start(self) -> None:
        self._work()

    def join(self) -> None: ...


def test_an_error_of_an_instance_is_raised_here() -> None:
    def fail() -> None:
        raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory"):
        throughput([fail, lambda: None], samples=1, seconds=0.01)
