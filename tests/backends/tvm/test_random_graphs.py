"""Random integer networks: the compiled bits are the reference's, whatever the shapes and joins."""

from __future__ import annotations

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
from qpc.targets import Target
from tests.backends.tvm.checking import assert_same_bits
from tests.generators import random_graph

pytestmark = pytest.mark.tvm

PORTABLE = (
    "x86-64",
    "x86-64-sse4",
    "x86-64-avx2",
    "x86-64-avx512",
    "x86-64-avx512-vnni-256",
)


def _check(seed: int) -> None:
    """Batch sizes, threads and the target follow from the seed."""
    sizes = (1 + seed % 5,) if seed % 4 else (1 + seed % 5, 1 + (seed + 1) % 5)
    target = "native" if seed % 3 else PORTABLE[seed // 3 % len(PORTABLE)]
    if Target.parse(target).runs_here() is not None:  # it cannot
        target = "native"
    assert_same_bits(random_graph(seed), target, batch_sizes=sizes, threads=1 + seed % 2, seed=seed)


# Sixteen take each of PORTABLE and the native target, both numbers of threads, one and two sizes.
@pytest.mark.every(18)
@pytest.mark.parametrize("seed", range(16))
def test_a_random_network_gives_the_bits_of_the_reference(seed: int) -> None:
    _check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(16, 40), *range(1000, 1300)])
def test_many_random_networks_give_the_bits_of_the_reference(seed: int) -> None:
    _check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2000, 2020))
def test_deep_random_networks_give_the_bits_of_the_reference(seed: int) -> None:
    assert_same_bits(random_graph(seed, nodes=40), batch_sizes=(1 + seed % 3,), seed=seed)
