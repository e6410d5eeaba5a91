"""Lineage: which channels of each parameter are left of those that it once had.

Removal of channels notes here what it keeps, so that whatever belongs to a parameter but stands
outside the graph, such as the state of an optimizer, can follow it through any number of removals.
The record is one immutable value under one key of `GraphModule.meta`: it is copied with the graph
and saved with it, and no part of what the graph computes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from torch import Tensor
from torch.fx import GraphModule

_KEY = "qpc.lineage"


@dataclass(frozen=True)
class KeptAxis:
    """What is left of one axis of a parameter.

    size: of the axis when a channel was removed from it for the first time.
    kept: which of these indices are left, in ascending order, which removal leaves them in.
    """

    size: int
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        indices = (-1, *self.kept, self.size)
        if any(a >= b for a, b in itertools.pairwise(indices)):
            raise ValueError(f"the indices left of {self.size} ascend from 0 to {self.size - 1}")


Lineage: TypeAlias = Mapping[tuple[str, int], KeptAxis]
"""By name of the parameter, and axis; axes that have lost nothing are not in it."""


def lineage(gm: GraphModule) -> Lineage:
    """The record of a graph; an empty one if nothing was ever removed."""
    found = getattr(gm, "meta", {}).get(_KEY, ())
    return MappingProxyType(dict(found))


def set_lineage(gm: GraphModule, record: Lineage) -> None:
    """Replace the record of a graph."""
    if record:
        gm.meta[_KEY] = tuple(record.items())  # immutable: copies of the graph share it
    else:
        gm.meta.pop(_KEY, None)


def note_removal(gm: GraphModule, stays: Mapping[tuple[str, int], Tensor]) -> None:
    """Add one removal to the record: for axes of parameters, which indices stay, bool[size]."""
    record = dict(lineage(gm))
    for place, mask in stays.items():
        size = mask.numel()
        before = record.get(place)
        if before is None or len(before.kept) != size:  # a tensor that a pass has put there since
            before = KeptAxis(size, tuple(range(size)))
        left = tuple(before.kept[i] for i in mask.nonzero().flatten().tolist())
        record[place] = KeptAxis(before.size, left)
    set_lineage(gm, record)
