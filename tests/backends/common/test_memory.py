"""Tensors that are needed at the same time never overlap, and memory is used again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qpc.backends.common.memory import ALIGNMENT, Lifetime, aligned, arrange


def test_memory_is_used_again_once_it_is_free() -> None:
    chain = [Lifetime(1000, step, step + 1) for step in range(10)]
    assert arrange(chain).size == 2 * aligned(1000)


def test_a_small_tensor_fits_between_large_ones() -> None:
    large = [Lifetime(640, 0, 9), Lifetime(640, 0, 1)]
    small = [Lifetime(64, 2, 3), Lifetime(64, 3, 4)]
    found = arrange(large + small)
    assert found.size == 1280
    assert all(640 <= offset < 1280 for offset in found.offsets[2:])


def test_nothing_needs_nothing() -> None:
    assert arrange([]).size == 0
    assert arrange([Lifetime(0, 0, 3)]).size == 0


lifetimes = st.builds(
    lambda size, first, length: Lifetime(size, first, first + length),
    st.integers(0, 500),
    st.integers(0, 8),
    st.integers(0, 8),
)


@given(st.lists(lifetimes, max_size=12))
def test_tensors_of_one_step_do_not_overlap(given: list[Lifetime]) -> None:
    found = arrange(given)
    for i, (offset, tensor) in enumerate(zip(found.offsets, given, strict=True)):
        assert offset % ALIGNMENT == 0
        assert offset + tensor.size <= found.size
        for other_offset, other in list(zip(found.offsets, given, strict=True))[:i]:
            apart = offset + tensor.size <= other_offset or other_offset + other.size <= offset
            assert apart or not tensor.meets(other) or not tensor.size or not other.size


@given(st.lists(lifetimes, max_size=12))
def test_the_arena_is_no_larger_than_all_tensors_together(given: list[Lifetime]) -> None:
    assert arrange(given).size <= sum(aligned(tensor.size) for tensor in given)
