"""Memory that starts where vectors and large pages want it to."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from qpc.runtime.arrays import Array, Stored
from qpc.runtime.pages import ALIGNMENT, address, allocate, moved_together


@pytest.mark.parametrize("size", [0, 1, 100, 1 << 21, (1 << 21) + 1])
def test_memory_is_zero_and_begins_at_a_page(size: int) -> None:
    memory = allocate(size)
    assert memory.shape == (size,)
    assert not memory.any()
    assert size == 0 or address(memory) % (mmap.PAGESIZE if size < 1 << 21 else 1 << 21) == 0


def test_a_system_without_large_pages_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1)  # no advice that any kernel knows
    assert allocate(1 << 22).shape == (1 << 22,)


@pytest.mark.parametrize("size", [1 << 12, 1 << 23])
def test_memory_is_private_and_large_pages_are_asked_for(size: int) -> None:
    memory = allocate(size)
    flags = _flags_of_the_mapping_at(address(memory))
    assert "rd" in flags
    assert "sh" not in flags  # shared with forked processes
    if hasattr(mmap, "MADV_HUGEPAGE"):
        assert ("hg" in flags) == (size > 1 << 21)


def _flags_of_the_mapping_at(address: int) -> list[str]:
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("no mapping has this address")


def test_tensors_are_moved_side_by_side() -> None:
    arrays: dict[str, Array] = {
        "a": np.arange(7, dtype=np.uint8),
        "b": np.random.default_rng(0).random((5, 3)).T,
        "c": np.empty(0, np.int32),
        "d": np.array(True),
    }
    given = {name: Stored.of(array) for name, array in arrays.items()}
    remaining = dict(given)
    found = moved_together(remaining)
    assert not remaining  # nothing is in memory twice
    for name, array in arrays.items():
        assert np.array_equal(found[name].array, array)
        assert found[name].type == given[name].type
        assert address(found[name].data) % ALIGNMENT == 0 or not array.size
    assert address(found["b"].data) - address(found["a"].data) == ALIGNMENT
