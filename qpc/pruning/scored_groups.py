"""Channel groups with their scores, the layers they belong to, and their size before pruning."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch.fx import GraphModule, Node

from qpc.calls import arguments
from qpc.channels.atoms import collapse
from qpc.channels.cost import Cost, CostModel, source_parameter
from qpc.channels.groups import ChannelAnalysis, Group, analyze_channels
from qpc.errors import PassError
from qpc.meta import attribute
from qpc.pruning.criteria import Criterion, Judge
from qpc.registry import op_name


@dataclass(frozen=True)
class Baseline:
    """A model before any pruning, to which amounts are relative while it is pruned step by step.

    units: the number of units of each group.
    """

    cost: Cost
    units: tuple[int, ...]

    @staticmethod
    def of(gm: GraphModule, *, heads: str | tuple[str, ...] = ()) -> Baseline:
        """Measure a core-form graph; `heads` as in `analyze_channels`."""
        analysis = analyze_channels(gm, heads=heads)
        units = tuple(len(group.units) for group in analysis.groups)
        return Baseline(CostModel(gm).after(), units)


@dataclass(frozen=True)
class ScoredGroup:
    """A group whose units are in the order in which they are to go.

    order: the units that may go, the least important first; scores: theirs. Should all go, every
    tensor still has a channel, but for tensors that have all units of the group.
    unknown: how many of its units may go but could not be judged.
    original: how many units the group had before any pruning; units: how many it has.
    width: how many channels of its first layer make up one unit.
    layers: the operators that make its channels.
    structure: equal for groups that consist of the same kinds of operators.
    """

    group: Group = field(repr=False)
    order: tuple[int, ...]
    scores: tuple[float, ...]
    unknown: int
    units: int
    original: int
    width: int
    layers: tuple[Node, ...]
    structure: tuple[tuple[str, str, int], ...] = field(repr=False)

    @property
    def gone(self) -> int:
        """How many units have been removed before."""
        return self.original - self.units


def score_groups(
    gm: GraphModule,
    analysis: ChannelAnalysis,
    criterion: Judge,
    baseline: Baseline | None = None,
) -> tuple[ScoredGroup, ...]:
    """Score all groups of a graph.

    Raises PassError if the criterion returns something else than one number for each unit, or if
    the baseline is of another model.
    """
    originals = tuple(len(group.units) for group in analysis.groups)
    if baseline is not None:
        if len(baseline.units) != len(originals):
            raise PassError(
                f"the baseline has {len(baseline.units)} groups of channels, "
                f"the graph has {len(originals)}",
                fix="measure it on this graph before pruning, with the same heads",
            )
        originals = baseline.units
    ready = criterion.prepared(gm, analysis) if isinstance(criterion, Criterion) else criterion
    scores = [_scores(group, ready, gm, analysis) for group in analysis.groups]
    staying = _staying(analysis, scores)
    readers = _readers(gm)
    axes = {(axis.name, axis.axis): axis for axis in analysis.axes}
    found = []
    for group, original, by_unit in zip(analysis.groups, originals, scores, strict=True):
        order = [atom for atom in sorted(by_unit, key=by_unit.__getitem__) if atom not in staying]
        pieces = [(piece, axes[piece.name, piece.axis]) for piece in group.slices]
        made = next((pair for pair in pieces if pair[1].produces), pieces[0])
        labels = made[1].labels[made[0].start : made[0].stop]
        makers = [p.name for p, axis in pieces if axis.produces] or [made[0].name]
        uses = {name: readers.get(id(attribute(gm, name)), ()) for name, _ in axes}
        found.append(
            ScoredGroup(
                group,
                tuple(order),
                tuple(by_unit[atom] for atom in order),
                len(group.prunable) - len(by_unit),
                len(group.units),
                original,
                int(torch.unique(labels, return_counts=True)[1].max()),
                tuple(dict.fromkeys(node for name in makers for node, _ in uses[name])),
                tuple(
                    (op_name(node), argument, piece.axis)
                    for piece in group.slices
                    for node, argument in uses[piece.name]
                ),
            )
        )
    return tuple(found)


def _scores(
    group: Group, criterion: Judge, gm: GraphModule, analysis: ChannelAnalysis
) -> dict[int, float]:
    """The score of each unit that may go, without those that the criterion cannot judge."""
    units = [unit.atom for unit in group.prunable]
    if not units:
        return {}
    found = criterion.scores(gm, analysis, group)
    scores = torch.as_tensor(found).detach().double()
    if scores.shape != (len(units),) or bool(scores.isinf().any()):
        raise PassError(
            f"{criterion!r} gives no finite score for each of the {len(units)} units of "
            f"{group.name!r}",
            fix="return one number for each of group.prunable, or NaN for what must stay",
        )
    pairs = zip(units, scores.tolist(), strict=True)
    return {atom: score for atom, score in pairs if not math.isnan(score)}


def _staying(analysis: ChannelAnalysis, scores: list[dict[int, float]]) -> set[int]:
    """The best unit of each tensor that has only some units of its groups, such as a half of them.

    A tensor that has all units of a group keeps one anyway.
    """
    best: dict[int, float] = {atom: score for group in scores for atom, score in group.items()}
    sizes = [len(group.units) for group in analysis.groups]
    owner = torch.full((len(analysis.atoms) + 1,), len(sizes))  # the last: NONE, which always stays
    for group in analysis.groups:
        owner[[unit.atom for unit in group.units]] = group.index
    lines = [axis.labels for axis in analysis.axes]
    lines += [collapse(labels)[0] for every in analysis.values.values() for labels in every]
    staying: set[int] = set()
    for atoms in {tuple(torch.unique(line).tolist()) for line in lines}:
        counts = torch.bincount(owner[list(atoms)], minlength=len(sizes) + 1).tolist()
        whole = any(count == size for count, size in zip(counts, sizes, strict=False))
        if atoms and not counts[-1] and not whole and all(atom in best for atom in atoms):
            staying.add(max(atoms, key=best.__getitem__))
    return staying


def _readers(gm: GraphModule) -> dict[int, list[tuple[Node, str]]]:
    """The operators that read each tensor, by its identity, and as which of their arguments."""
    found: dict[int, list[tuple[Node, str]]] = {}
    for node in gm.graph.nodes:
        if node.op != "call_function":
            continue
        for source in node.all_input_nodes:
            parameter = source_parameter(source)
            if parameter is not None:
                tensor = attribute(gm, str(parameter.target))
                found.setdefault(id(tensor), []).append((node, _argument(node, source)))
    return found


def _argument(node: Node, source: Node) -> str:
    return next((name for name, value in arguments(node).items() if value is source), "")
