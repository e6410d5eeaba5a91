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

import torch
from torch import Tensor

from qpc.backends.common.memory import aligned

_LARGE_PAGE = 2 * 1024 * 1024  # bytes, on x86-64
# Without this the memory would be shared with forked processes, and shared memory gets no large
# pages from advice.
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def allocate(size: int) -> Tensor:
    """uint8[size], zero, at the start of a page."""
    if size < _LARGE_PAGE:
        region, start = mmap.mmap(-1, max(size, 1), _PRIVATE), 0
    else:
        region = mmap.mmap(-1, size + _LARGE_PAGE, _PRIVATE)
        start = -torch.frombuffer(region, dtype=torch.uint8).data_ptr() % _LARGE_PAGE
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them: small pages do
                region.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(region, dtype=torch.uint8)[start : start + size]


def moved_together(tensors: MutableMapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors one after the other, none of which begins within a cache line.

    Each leaves `tensors` as it is copied, so that a large model is not in memory twice.
    """
    sizes = {name: t.numel() * t.element_size() for name, t in tensors.items()}
    memory = allocate(sum(aligned(size) for size in sizes.values()))
    copies, at = {}, 0
    for name in sizes:
        tensor = tensors.pop(name)
        part = memory[at : at + sizes[name]]
        copies[name] = part.view(tensor.dtype).view(tensor.shape).copy_(tensor)
        at += aligned(sizes[name])
    return copies
