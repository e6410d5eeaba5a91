"""Memory for weights and activations: in large pages, where the system offers them.

A model reads all of its weights once per call. In pages of 4 KiB a large one needs more entries of
the page table than the CPU remembers, and its prefetchers stop at the end of each page.

The memory is private to a process. After a fork both have the same weights, without a copy of them,
and activations of their own.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import MutableMapping

import numpy as np

from qpc.runtime.arrays import Array, Stored

ALIGNMENT = 64  # bytes of a cache line, and of the widest vector
_LARGE_PAGE = 2 * 1024 * 1024  # bytes, on x86-64, and on ARM with small pages of 4 KiB
# Without this the memory would be shared with forked processes, and shared memory gets no large
# pages from advice.
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def aligned(size: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def address(array: Array) -> int:
    """Where an array's memory begins."""
    place: int = array.__array_interface__["data"][0]
    return place


def allocate(size: int) -> Array:
    """uint8[size], zero, at the start of a page."""
    if size < _LARGE_PAGE:
        region, start = mmap.mmap(-1, max(size, 1), _PRIVATE), 0
    else:
        region = mmap.mmap(-1, size + _LARGE_PAGE, _PRIVATE)
        start = -address(np.frombuffer(region, np.uint8)) % _LARGE_PAGE
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them: small pages do
                region.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(region, np.uint8)[start : start + size]


def moved_together(tensors: MutableMapping[str, Stored]) -> dict[str, Stored]:
    """Tensors one after the other, none of which begins within a cache line.

    Each leaves `tensors` as it is copied, so that a large model is not in memory twice.
    """
    sizes = {name: tensor.data.size for name, tensor in tensors.items()}
    memory = allocate(sum(aligned(size) for size in sizes.values()))
    copies, at = {}, 0
    for name, size in sizes.items():
        tensor = tensors.pop(name)
        part = memory[at : at + size]
        part[:] = tensor.data
        copies[name] = Stored(tensor.type, part)
        at += aligned(size)
    return copies
