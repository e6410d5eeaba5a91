"""The least and the greatest value of each unit of channels, as measured on data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qpc.batches import Batch, inputs_of
from qpc.channels.scaling import Bounds, Columns, Scaling
from qpc.errors import CalibrationError
from qpc.meta import label

Place = Bounds | Columns


def measured_extents(
    gm: GraphModule,
    scaling: Scaling,
    places: Sequence[Place],
    batches: Iterable[Batch],
    purpose: str,
) -> tuple[Tensor, Tensor]:
    """The least and the greatest value that each unit has at `places`, float64[units] each.

    Units that are nowhere there have 0.0. One batch is in memory at a time. Raises CalibrationError
    without batches, and for values that are not finite.
    """
    watcher = _Watcher(gm, scaling, places)
    run_batches(watcher, gm, batches, purpose)
    return watcher.least, watcher.greatest


def run_batches(
    watcher: Interpreter, gm: GraphModule, batches: Iterable[Batch], purpose: str
) -> None:
    """Run a graph that is watched on all batches. Raises CalibrationError if there are none."""
    count = 0
    with torch.no_grad():
        for count, batch in enumerate(batches, start=1):
            watcher.run(*inputs_of(gm, batch, count - 1))
    if not count:
        raise CalibrationError(
            f"there are no batches to {purpose} on",
            fix="pass a list; a generator that was used up is empty",
        )


class _Watcher(Interpreter):
    def __init__(self, gm: GraphModule, scaling: Scaling, places: Sequence[Place]) -> None:
        super().__init__(gm)
        self._places: Mapping[Node, list[Place]] = _by_value(places)
        self.least = torch.zeros(scaling.units, dtype=torch.float64)
        self.greatest = torch.zeros(scaling.units, dtype=torch.float64)

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        for place in self._places.get(n, ()):
            assert isinstance(value, Tensor)
            if not value.numel():
                continue
            others = [d for d in range(value.dim()) if d != place.axis % value.dim()]
            least = (value.amin(others) if others else value).double()
            greatest = (value.amax(others) if others else value).double()
            if not (least.isfinite().all() and greatest.isfinite().all()):
                raise CalibrationError(f"the values of {label(n)} are not finite", node=n)
            self.least.scatter_reduce_(0, place.channels, least, "amin")
            self.greatest.scatter_reduce_(0, place.channels, greatest, "amax")
        return value


def _by_value(places: Sequence[Place]) -> dict[Node, list[Place]]:
    found: dict[Node, list[Place]] = {}
    for place in places:
        found.setdefault(place.value, []).append(place)
    return found


def clamp_limits(
    gm: GraphModule, scaling: Scaling, batches: Iterable[Batch] | None, purpose: str
) -> tuple[Tensor, Tensor]:
    """The least scale that each unit may have, and which must keep theirs, for the clamps' sake.

    A channel that reaches the bound of a clamp is fixed; one that does not may grow until it would.
    Without batches all that are clamped are fixed. float64[units], and bool[units], where all that
    is fixed for other reasons is True as well.
    """
    lowest, fixed = torch.zeros(scaling.units, dtype=torch.float64), scaling.fixed()
    if not scaling.bounds:
        return lowest, fixed
    if batches is None:
        for clamp in scaling.bounds:
            fixed[clamp.channels] = True
        return lowest, fixed
    least, greatest = measured_extents(gm, scaling, scaling.bounds, batches, purpose)
    for clamp in scaling.bounds:
        channels = clamp.channels
        for extreme, bound in ((greatest, clamp.hi), (-least, -clamp.lo)):
            if bound in (0.0, torch.inf):
                continue
            needed = extreme[channels] / bound
            lowest.scatter_reduce_(0, channels, needed, "amax")
            fixed[channels[needed >= 1.0]] = True
    return lowest, fixed
