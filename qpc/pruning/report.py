"""What pruning did to a model, layer by layer, and why the rest stayed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch.fx import GraphModule

from qpc.channels.cost import Cost, LayerCost, cost
from qpc.channels.groups import ChannelAnalysis, analyze_channels
from qpc.facts import require_graph
from qpc.terminal.notebook import Shown


@dataclass(frozen=True)
class PrunedLayer:
    """One layer before and after.

    group: the dependency group that the layer's output channels are in; None if it makes none.
    pinned: why channels of that group cannot go; empty where all may.
    """

    before: LayerCost
    after: LayerCost | None
    group: int | None
    pinned: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class PruningReport(Shown):
    """All layers of a model, and the totals."""

    layers: tuple[PrunedLayer, ...]
    before: Cost
    after: Cost

    def _bars(self) -> tuple[str, Iterator[tuple[str, float]]]:
        return (
            "MACs after",
            ((r.before.layer, r.after.macs if r.after else 0) for r in self.layers),
        )

    def __str__(self) -> str:
        width = max([len(row.before.layer) for row in self.layers] + [len("total")])
        head = f"{'layer':<{width}}  {'channels':>13}  {'parameters':>21}  {'MACs':>29}  group"
        lines = [head, *(_format(row, width) for row in self.layers)]
        total = (
            f"{'total':<{width}}  {_change(self.before.channels, self.after.channels, 13)}"
            f"  {_change(self.before.parameters, self.after.parameters, 21)}"
            f"  {_change(self.before.macs, self.after.macs, 29)}"
        )
        return "\n".join([*lines, total])


def pruning_report(
    before: GraphModule, after: GraphModule, *, heads: str | tuple[str, ...] = ()
) -> PruningReport:
    """Compare a core-form graph with what pruning has made of it.

    heads: as in `PropagateMasks`. Layers are matched by their modules, which pruning keeps.
    """
    require_graph(before, "pruning_report")
    require_graph(after, "pruning_report")
    analysis = analyze_channels(before, heads=heads)
    old, new = cost(before), cost(after)
    left = {(row.layer, row.op): row for row in new.layers}
    rows = tuple(
        PrunedLayer(row, left.get((row.layer, row.op)), *_group(analysis, row.layer))
        for row in old.layers
    )
    return PruningReport(rows, old, new)


def _group(analysis: ChannelAnalysis, layer: str) -> tuple[int | None, tuple[str, ...]]:
    """The group of a layer's output channels, and the reasons for what is pinned in it."""
    makes = [a for a in analysis.axes if a.produces and a.name.rpartition(".")[0] == layer]
    group = analysis.group_of(makes[0].name, makes[0].axis) if makes else None
    if group is None:
        return None, ()
    return group.index, tuple(sorted({u.pinned for u in group.units if u.pinned is not None}))


def _format(row: PrunedLayer, width: int) -> str:
    b, a = row.before, row.after
    reasons = f"  {'; '.join(row.pinned)}" if row.pinned else ""
    group = "-" if row.group is None else str(row.group)
    return (
        f"{b.layer:<{width}}  {_change(b.channels, a.channels if a else 0, 13)}"
        f"  {_change(b.parameters, a.parameters if a else 0, 21)}"
        f"  {_change(b.macs, a.macs if a else 0, 29)}  {group}{reasons}"
    )


def _change(before: int, after: int, width: int) -> str:
    text = f"{before:,}" if before == after else f"{before:,} -> {after:,}"
    return f"{text:>{width}}"
