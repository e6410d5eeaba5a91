from __future__ import annotations

import threading

import pytest

from qpc.bench.throughput import throughput


def test_every_instance_is_called_by_a_thread_of_its_own() -> None:
    seen: list[set[int]] = [set(), set()]
    calls = [lambda place=place: seen[place].add(threading.get_ident()) for place in range(2)]
    assert throughput(calls, samples=4, seconds=0.01) > 0
    assert [len(threads) for threads in seen] == [1, 1]
    assert seen[0].isdisjoint(seen[1])


def test_an_error_of_an_instance_is_raised_here() -> None:
    def fail() -> None:
        raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory"):
        throughput([fail, lambda: None], samples=1, seconds=0.01)
