"""Atoms, the smallest pieces that pruning can remove, and channel groups, which go together.

An atom is one channel of one parameter axis, a number from 0. `NONE` labels what is never removed.
Atoms that must go together are united; atoms that must stay are pinned, with the reason.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NONE = -1
"""The label of elements that belong to no channel."""

Labels = Tensor
"""int64, of the shape of the value they label: the atom of each element, or NONE."""


class Atoms:
    """Disjoint sets of atoms. Uniting and finding work on whole tensors of labels at once."""

    def __init__(self) -> None:
        self._above: NDArray[np.int64] = np.full(1, NONE, dtype=np.int64)
        """The atom that represents atom `i - 1`, or is nearer to it; NONE stands in front."""
        self._count = 0
        self.changes = 0
        """How often sets have been united."""
        self._settled = True
        self._pinned: list[tuple[NDArray[np.int64], str]] = []

    def __len__(self) -> int:
        return self._count

    def new(self, count: int) -> Labels:
        """`count` fresh atoms, int64[count]."""
        fresh = np.arange(self._count, self._count + count, dtype=np.int64)
        self._count += count
        if self._count >= len(self._above):
            grown = np.arange(-1, 2 * self._count, dtype=np.int64)
            grown[: len(self._above)] = self._above
            self._above = grown
        return torch.from_numpy(fresh)

    def find(self, labels: Labels) -> Labels:
        """The representative of each label's set; NONE stays NONE. Keeps expanded axes expanded."""
        core, shape = collapse(labels)
        return torch.from_numpy(self._roots(core.numpy())).expand(shape)

    def unite(self, a: Labels, b: Labels, why: str) -> None:
        """Unite the atoms at equal places of two broadcastable label tensors.

        An atom that meets NONE, which is never removed, is pinned for the reason `why`.
        """
        left, right = broadcast_collapsed(a, b)
        one, other = left.numpy().ravel(), right.numpy().ravel()
        alone = (one == NONE) ^ (other == NONE)
        self.pin(torch.from_numpy(np.maximum(one, other)[alone]), why)
        both = (one != NONE) & (other != NONE) & (one != other)
        if both.any():
            pairs = np.unique(np.stack([one[both], other[both]], axis=1), axis=0)
            self._union(pairs[:, 0], pairs[:, 1])

    def pin(self, labels: Labels, why: str) -> None:
        """Forbid the removal of all atoms in `labels`."""
        core, _ = collapse(labels)
        atoms = np.unique(core.numpy())
        atoms = atoms[atoms != NONE]
        if len(atoms):
            self._pinned.append((atoms, why))

    def fixed(self, labels: Labels) -> bool:
        """Whether no label is of an atom that may still go."""
        core = collapse(labels)[0].numpy()
        atoms = np.unique(core[core != NONE])
        pinned = [roots for roots, _ in self._pinned]
        if not len(atoms) or not pinned:
            return not len(atoms)
        return bool(np.isin(self._roots(atoms), self._roots(np.concatenate(pinned))).all())

    def pins(self) -> dict[int, str]:
        """The representatives of pinned sets, each with the first reason given."""
        reasons: dict[int, str] = {}
        for atoms, why in self._pinned:
            for root in np.unique(self._roots(atoms)):
                reasons.setdefault(int(root), why)
        return reasons

    def _roots(self, atoms: NDArray[np.int64]) -> NDArray[np.int64]:
        while not self._settled:
            higher = self._above[self._above + 1]
            self._settled = np.array_equal(higher, self._above)
            self._above = higher
        return np.asarray(self._above[atoms + 1])

    def _union(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """Hook the larger root of every pair to the smaller one until all pairs agree."""
        while True:
            a, b = self._roots(a), self._roots(b)
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            self.changes += 1
            np.minimum.at(self._above, np.maximum(a, b) + 1, np.minimum(a, b))
            self._settled = False


# --- label tensors: axes along which nothing changes are kept expanded (stride 0) -----------------


def collapse(labels: Labels) -> tuple[Labels, torch.Size]:
    """`labels` with expanded axes narrowed to length 1, and the shape to expand to again."""
    core = labels
    for axis, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if size > 1 and stride == 0:
            core = core.narrow(axis, 0, 1)
    return core, labels.shape


def compact(labels: Labels) -> Labels:
    """The same labels, with every axis expanded along which they do not change."""
    core, shape = collapse(labels)
    for axis in range(core.dim()):
        if core.shape[axis] > 1:
            first = core.narrow(axis, 0, 1)
            if bool((core == first).all()):
                core = first
    return core.contiguous().expand(shape)


def varying_axes(labels: Labels) -> list[int]:
    """The axes along which compact labels change."""
    core, _ = collapse(labels)
    return [axis for axis, size in enumerate(core.shape) if size > 1]


def along(labels: Labels, axis: int) -> Labels:
    """The labels along one axis, at index 0 of the others: int64[size]."""
    kept = axis % labels.dim()
    for other in reversed(range(labels.dim())):
        if other != kept:
            labels = labels.select(other, 0)
    return labels


def only_along(labels: Labels, axis: int) -> Labels:
    """The labels at index 0 of all axes but one; the others keep length 1."""
    for other in range(labels.dim()):
        if other != axis % labels.dim():
            labels = labels.narrow(other, 0, 1)
    return labels


def distinct(line: Labels) -> int:
    """How many atoms there are."""
    return int((torch.unique(line) != NONE).sum())


def spread(line: Labels, axis: int, shape: torch.Size | tuple[int, ...]) -> Labels:
    """Labels of `shape` that change along `axis` only, as `line` does."""
    view = [1] * len(shape)
    view[axis % len(shape)] = -1
    return line.reshape(view).expand(shape)


def nothing(shape: torch.Size | tuple[int, ...]) -> Labels:
    """NONE everywhere."""
    return torch.tensor(NONE).expand(shape)


def broadcast_collapsed(a: Labels, b: Labels) -> tuple[Labels, Labels]:
    """Two label tensors broadcast against each other, short along axes where neither changes."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    a, b = a.expand(shape), b.expand(shape)
    for axis, size in enumerate(shape):
        if size > 1 and a.stride(axis) == 0 and b.stride(axis) == 0:
            a, b = a.narrow(axis, 0, 1), b.narrow(axis, 0, 1)
    return a, b
