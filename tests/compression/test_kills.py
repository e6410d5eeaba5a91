"""A run that is killed with SIGKILL, at any moment, goes on and ends as if nothing had been."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.compression.running import LOOP, TEXTBOOK, killed_after, killed_at, marks, run

MOMENTS = (1, 12, 40, 64, 90, 2, 31)
"""Calls that change the disk: while the run begins, within steps, between epochs, near its end."""


@pytest.mark.thorough
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path: Path) -> None:
    undisturbed = marks(run(LOOP))
    folder = tmp_path / "run"
    killed = [killed_at(moment, lambda: run(LOOP, out=folder)) for moment in MOMENTS]
    assert sum(killed) >= len(MOMENTS) - 2
    assert marks(run(LOOP, out=folder)) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    begun = time.perf_counter()
    undisturbed = marks(run(TEXTBOOK))
    seconds = time.perf_counter() - begun
    rng = random.Random(0)
    kills = finished = 0
    while kills < 50:
        folder = tmp_path / str(finished)
        if killed_after(
            lambda: time.sleep(rng.random() * seconds / 2),
            lambda folder=folder: run(TEXTBOOK, out=folder),  # type: ignore[misc]  # bound now
        ):
            kills += 1
            continue
        finished += 1
        assert marks(run(TEXTBOOK, out=folder)) == undisturbed
    assert marks(run(TEXTBOOK, out=tmp_path / str(finished))) == undisturbed
