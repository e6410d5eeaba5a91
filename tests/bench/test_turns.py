from __future__ import annotations

import time

import pytest

from qpc.bench.turns import Block, block, cpu_share, in_turns, ratio, times


def test_the_order_rotates_and_every_call_runs_equally_often() -> None:
    seen: list[str] = []
    calls = {name: (lambda name=name: seen.append(name)) for name in "abc"}
    found = in_turns(calls, 3, count=1, block_s=0.0, pause_s=0.0)
    runs = seen[3 * 4 :: 3]  # after the blocks of two that warm up; each block runs a call 3 times
    assert "".join(runs) == "abcbcacab"
    assert {name: len(blocks) for name, blocks in found.items()} == {"a": 3, "b": 3, "c": 3}


def test_short_calls_run_until_a_block_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    def takes(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    calls = {"short": lambda: takes(1 / 1024), "long": lambda: takes(1 / 32)}
    found = in_turns(calls, 2, count=3, block_s=1 / 64, pause_s=0.0)
    counts = {name: {len(b.times) for b in blocks} for name, blocks in found.items()}
    assert counts == {"short": {16}, "long": {3}}


def test_half_of_a_block_warms_up() -> None:
    seen: list[int] = []
    assert len(block(lambda: seen.append(1), 8, pause_s=0.0).times) == 8
    assert len(seen) == 12


def test_times_are_medians_over_rounds() -> None:
    found = times([Block((1.0, 2.0, 3.0), 2.0), Block((10.0, 20.0, 30.0), 4.0)])
    assert (found.median_ms, found.best_ms, found.cpu_ms) == (11.0, 1.0, 3.0)


def test_the_ratio_is_taken_within_a_round() -> None:
    ours = [Block((1.0,), 1.0), Block((100.0,), 30.0)]
    theirs = [Block((2.0,), 2.0), Block((200.0,), 10.0)]
    found = ratio(ours, theirs)
    assert (found.median, found.p10, found.best, found.cpu) == (0.5, 0.5, 0.5, 1.75)


@pytest.mark.parametrize(("threads", "expected"), [(1, 0.5), (2, 0.25)])
def test_the_share_of_the_cores(threads: int, expected: float) -> None:
    assert cpu_share({"a": [Block((2.0, 2.0), 1.0)]}, threads) == expected


def test_an_interrupt_says_how_many_rounds_are_lost() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        if calls == 26:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        in_turns({"a": call}, rounds=9, count=5, block_s=0, pause_s=0)
    # 4 calls to see how fast it is, and 7 in each round
    assert caught.value.__notes__ == ["3 of 9 rounds were measured, and are lost"]
