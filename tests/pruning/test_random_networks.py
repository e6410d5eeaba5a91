"""Random networks compute the same with channels removed as with channels masked."""

from __future__ import annotations

import pytest

from qpc.capture.trace import trace
from qpc.channels.groups import analyze_channels
from tests.pruning.random_networks import random_network
from tests.pruning.running import CHOICES, TOLERANCE, prune, wrong_shapes


# Every choice of channels comes up; further networks of this size are slow tests.
@pytest.mark.every(10)
@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 12))]
)
def test_random_network(seed: int) -> None:
    _check(seed, steps=12, choices=[list(CHOICES)[seed % len(CHOICES)]])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1300))
def test_larger_random_network(seed: int) -> None:
    _check(seed, steps=8 + seed % 30, choices=list(CHOICES))


def _check(seed: int, steps: int, choices: list[str]) -> None:
    model, inputs = random_network(seed, steps)
    gm = trace(model, inputs, check=False)
    analysis = analyze_channels(gm)
    for choice in choices:
        pruned = prune(gm, inputs, CHOICES[choice](analysis, seed))
        assert pruned.error <= TOLERANCE, choice
        assert wrong_shapes(pruned.gm) == []
