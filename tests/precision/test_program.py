from __future__ import annotations

import itertools
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpc.errors import ConfigError, MissingDependencyError, PassError
from qpc.precision.budget import Costs, Product
from qpc.precision.parts import Part
from qpc.precision.program import choose

BITS = (8, 4, 2)
W, V = (Part("weights", n, (), (n,), count) for n, count in (("w", 10), ("v", 30)))
A, B = (Part("activations", n, (), (n,)) for n in "ab")
PARTS = (W, V, A, B)
COSTS = Costs(
    PARTS,
    (
        Product(7, W, A),
        Product(5, V, B),
        Product(3, A, A),
        Product(1, A, B),
        Product(2, None, W),
        Product(1, None, None),
    ),
    3,
)


def best(noise: dict[tuple[Part, int], float], limits: tuple[float, float]) -> float:
    """The least sum of noise, by trying everything."""
    sums = [math.inf]
    for bits in itertools.product(BITS, repeat=len(PARTS)):
        chosen = dict(zip(PARTS, bits, strict=True))
        if COSTS.weight_bytes(chosen) <= limits[0] and COSTS.bit_operations(chosen) <= limits[1]:
            sums.append(sum(noise[choice] for choice in chosen.items()))
    return min(sums)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(1e-7, 1.0), min_size=12, max_size=12),
    st.integers(23, 60),
    st.integers(1300, 4000),
)
def test_the_choice_is_the_best_of_all(values: list[float], most: int, operations: int) -> None:
    noise = dict(zip(itertools.product(PARTS, BITS), values, strict=True))
    limits = (float(most), float(operations))
    chosen = choose(noise, COSTS, limits)
    assert COSTS.weight_bytes(chosen) <= limits[0]
    assert COSTS.bit_operations(chosen) <= limits[1]
    found = sum(noise[choice] for choice in chosen.items())
    assert found == pytest.approx(best(noise, limits), rel=1e-6)


NOISE = {(part, bits): 2.0**-bits for part in PARTS for bits in BITS}


def test_without_a_limit_the_noise_of_each_part_is_least() -> None:
    assert set(choose(NOISE, COSTS, (math.inf, math.inf)).values()) == {8}


def test_a_budget_that_is_met_exactly_is_met() -> None:
    full = dict.fromkeys(PARTS, 8)
    limits = (float(COSTS.weight_bytes(full)), float(COSTS.bit_operations(full)))
    assert choose(NOISE, COSTS, limits) == full


def test_what_cannot_be_met_is_said_with_the_least() -> None:
    least = dict.fromkeys(PARTS, 2)
    fewest = COSTS.weight_bytes(least)
    message = f"a budget of 5 bytes of weights cannot be met: the fewest are {fewest}"
    with pytest.raises(ConfigError, match=message):
        choose(NOISE, COSTS, (5.0, math.inf))
    with pytest.raises(ConfigError, match="a budget of 5 bit operations cannot be met"):
        choose(NOISE, COSTS, (math.inf, 5.0))


def test_bits_whose_noise_is_no_number_are_not_chosen() -> None:
    noise = {**NOISE, (W, 8): math.inf}
    assert choose(noise, COSTS, (math.inf, math.inf))[W] == 4
    with pytest.raises(PassError, match="not finite with the weights of w at any of the numbers"):
        choose({**noise, (W, 4): math.inf, (W, 2): math.inf}, COSTS, (math.inf, math.inf))


def test_without_scipy_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingDependencyError, match="SciPy, which solves for the bits") as caught:
        choose(NOISE, COSTS, (math.inf, math.inf))
    assert caught.value.fix == "pip install 'quantize-prune-compiler[mixed-precision]'"
