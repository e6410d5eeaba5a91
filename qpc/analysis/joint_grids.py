"""Which grids become one, because their values meet in a concat.

A concat only moves bytes if its operands have its grid; any other operand is looked up in a table
for every concat that it enters. One grid for all of them is the coarser for some, so only ranges of
similar width are joined.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import GraphModule

from qpc.meta import info
from qpc.quant.config import ActivationConfig
from qpc.registry import quantization_of

Range = tuple[float, float]


@dataclass(frozen=True)
class Observed:
    """What an observer found: the range of reals for a grid, and the settings of that grid."""

    range: Range
    settings: ActivationConfig


def joint_groups(
    gm: GraphModule, observed: Mapping[str, Observed], narrowest: float
) -> list[tuple[tuple[str, ...], Range]]:
    """Which observers get one grid, because their values meet in concats, and its range.

    gm: a graph in which observers have been inserted.
    observed: by the name of the observer; each group has their order. Observers that are not there
    have a grid already, and join no other.
    narrowest: a range joins others only if it is at least this share of them all together.

    Starting from the widest, each range is joined with its neighbours, and theirs, until one is too
    narrow. Ranges that are left over form groups of their own in the same way.
    """
    neighbours = _neighbours(gm, observed)
    ranges = {name: observed[name].range for name in neighbours}
    groups: list[tuple[tuple[str, ...], Range]] = []
    free = set(ranges)
    for seed in sorted(ranges, key=lambda name: (-_width(ranges[name]), name)):
        if seed in free:
            group, whole = _grown(seed, neighbours, {n: ranges[n] for n in free}, narrowest)
            free -= group
            if len(group) > 1:
                groups.append((tuple(name for name in observed if name in group), whole))
    return groups


def _neighbours(gm: GraphModule, observed: Mapping[str, Observed]) -> dict[str, list[str]]:
    """For each observer those whose values meet its own in a concat: as operand or result."""
    near: dict[str, dict[str, None]] = defaultdict(dict)
    for node in gm.graph.nodes:
        result = info(node).observer
        if not quantization_of(node).joins_grids or not info(node).integer or result is None:
            continue
        for operand in node.all_input_nodes:
            name = info(operand).observer
            if (
                name not in (None, result)
                and {name, result} <= observed.keys()
                and (observed[name].settings == observed[result].settings)
            ):
                near[result][name] = near[name][result] = None
    return {name: list(names) for name, names in near.items()}


def _grown(
    seed: str, neighbours: Mapping[str, list[str]], free: Mapping[str, Range], narrowest: float
) -> tuple[set[str], Range]:
    """The group that grows from `seed` among the free ranges, and its range."""
    group, whole, least = {seed}, free[seed], _width(free[seed])
    pending = list(neighbours[seed])
    while pending:
        name = pending.pop(0)
        if name in group or name not in free:
            continue
        lo, hi = free[name]
        wider = (min(lo, whole[0]), max(hi, whole[1]))
        narrower = min(least, _width(free[name]))
        if narrower < narrowest * _width(wider):
            continue
        group.add(name)
        whole, least = wider, narrower
        pending += neighbours[name]
    return group, whole


def _width(range_: Range) -> float:
    return range_[1] - range_[0]
