"""Which channels of which parameters must be pruned together: dependency analysis by labels.

Every channel of every parameter axis is an atom. Tensors of atom labels flow through the graph by
running the data-movement operators themselves on them, so concat, split, reshape, permute, roll and
channel shuffle need no rule of their own. Operators that tie channels (add, depthwise convolution,
norms) unite atoms; operators that are not understood pin theirs. Sets of united atoms are *units*,
which are pruned whole.

Where a reshape splits channels over several axes, as attention splits them into heads, only whole
slices along one of these axes can go: the one with the most of them, the inner one if there are as
many (the same channels of every head), or whole heads where `heads` asks for it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from qpc.calls import is_shape_arithmetic
from qpc.channels.atoms import NONE, Atoms, Labels, along, compact, nothing, varying_axes
from qpc.channels.flow import Flow, ParameterAxis
from qpc.errors import PassError
from qpc.meta import info


@dataclass(frozen=True)
class ChannelSlice:
    """Channels `start` up to `stop` of one parameter axis: a node of the dependency graph."""

    name: str
    axis: int
    start: int
    stop: int

    def __str__(self) -> str:
        before = ":, " * self.axis
        return f"{self.name}[{before}{self.start}:{self.stop}]"


@dataclass(frozen=True)
class Unit:
    """Channels that go together: atom, the representative, and the reason if they must stay."""

    atom: int
    pinned: str | None


@dataclass(frozen=True)
class Group:
    """Units whose channels live on the same parameters: a connected component of the graph."""

    index: int
    slices: tuple[ChannelSlice, ...]
    units: tuple[Unit, ...]

    @property
    def prunable(self) -> tuple[Unit, ...]:
        """The units that may go; at least one unit of a group must stay."""
        return tuple(unit for unit in self.units if unit.pinned is None)

    @property
    def name(self) -> str:
        """The group's first producing parameter."""
        return self.slices[0].name.removesuffix(".weight")


@dataclass(frozen=True)
class ChannelAnalysis:
    """The result of `analyze_channels`.

    values: the labels of every tensor in the graph, at batch size 1: those of each axis that has
    channels, or one of NONE.
    axes: the atoms of every parameter axis that has any.
    free: names of parameters used as values, such as position embeddings.
    graph: channel slices, joined where they share channels.
    groups: its connected components.
    """

    atoms: Atoms
    values: dict[Node, tuple[Labels, ...]]
    axes: tuple[ParameterAxis, ...]
    free: frozenset[str]
    graph: nx.Graph[ChannelSlice]
    groups: tuple[Group, ...]
    declined: dict[Node, str]

    def group_of(self, name: str, axis: int = 0) -> Group | None:
        """The first group that holds channels of a parameter axis."""
        return next(
            (g for g in self.groups if any((s.name, s.axis) == (name, axis) for s in g.slices)),
            None,
        )

    def marks(self, units: frozenset[int]) -> Labels:
        """For each atom, and for NONE at the end, whether it is of one of the units: bool."""
        marked = torch.zeros(len(self.atoms) + 1, dtype=torch.bool)
        marked[torch.tensor(sorted(units), dtype=torch.int64)] = True
        return marked

    def dot(self) -> str:
        """The graph in the language of Graphviz: a box for each group, its slices inside."""
        return _dot(self)

    def __str__(self) -> str:
        return "\n".join(_describe(group) for group in self.groups)


def analyze_channels(
    gm: GraphModule, *, heads: str | tuple[str, ...] = (), prune_outputs: bool = False
) -> ChannelAnalysis:
    """Find what can be pruned, and what must be pruned together, in a core-form graph.

    heads: shell patterns of module paths in which channels split over two axes (attention heads)
    are to be pruned as whole heads.
    prune_outputs: let channels go that reach the output of the graph.

    Raises PassError if a pattern matches no module. Cost: one run of the graph's data movement on
    labels; linear in the graph.
    """
    patterns = (heads,) if isinstance(heads, str) else tuple(heads)
    _require_matches(gm, patterns)
    flow = Flow(gm, patterns)
    for node in gm.graph.nodes:
        if node.op == "output":
            for value in node.all_input_nodes:
                for labels in flow.every(value) if flow.is_tensor(value) else ():
                    if not prune_outputs:
                        flow.atoms.pin(labels, "it reaches the output of the graph")
        elif node.op == "placeholder":
            flow.values[node] = (nothing(flow.shape(node)),)
        elif (
            node.op == "call_function"
            and not flow.waits(node)
            and not flow.is_constant(node)  # seen when a value meets it
            and (flow.is_tensor(node) or not is_shape_arithmetic(node))
        ):
            flow.visit(node)
    return _summary(flow)


def _require_matches(gm: GraphModule, heads: Sequence[str]) -> None:
    paths = dict.fromkeys(info(node).module_path for node in gm.graph.nodes)
    for pattern in heads:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise PassError(
                f"the pattern {pattern!r} of heads matches no module of the graph",
                fix="look at the module paths in print(qpc.format_graph(gm))",
            )


def _summary(flow: Flow) -> ChannelAnalysis:
    flow.settle()
    axes = [
        ParameterAxis(a.name, a.axis, flow.atoms.find(a.labels), a.produces)
        for a in flow.axes.values()
    ]
    for name, labels in flow.free.items():
        axes += _axes_of_free(name, flow.atoms.find(labels))
    ids = _group_ids(flow)
    slices = [piece for axis in axes for piece in _runs(axis, ids)]
    pieces, atoms = _incidence(axes, slices)
    graph: nx.Graph[ChannelSlice] = nx.Graph()
    graph.add_nodes_from(slices)
    graph.add_edges_from((slices[a], slices[b]) for a, b in _edges(pieces, atoms))
    produced = {(axis.name, axis.axis) for axis in axes if axis.produces}
    groups: list[Group] = []
    for group in _groups(graph, slices, pieces, atoms, flow.atoms.pins()):
        if group.prunable or any((s.name, s.axis) in produced for s in group.slices):
            groups.append(replace(group, index=len(groups)))
        else:  # elements of parameters that turned out to be no channels
            graph.remove_nodes_from(group.slices)
    return ChannelAnalysis(
        flow.atoms,
        {
            node: tuple(flow.atoms.find(labels) for labels in every)
            for node, every in flow.values.items()
        },
        tuple(axes),
        frozenset(flow.free),
        graph,
        tuple(groups),
        flow.declined,
    )


def _axes_of_free(name: str, labels: Labels) -> Iterator[ParameterAxis]:
    """The one axis of a free parameter along which its labels change, after all ties are known."""
    settled = compact(labels)
    for axis in varying_axes(settled):
        yield ParameterAxis(name, axis, along(settled, axis), produces=False)


def _group_ids(flow: Flow) -> Labels:
    """For each atom a number that all atoms of its group share."""
    groups = Atoms()
    groups.new(len(flow.atoms))
    everything = torch.arange(len(flow.atoms))
    groups.unite(everything, flow.atoms.find(everything), "")
    for start, stop in flow.origins:
        if stop - start > 1:
            groups.unite(torch.tensor([start]), torch.arange(start, stop), "")
    return groups.find(everything)


def _runs(axis: ParameterAxis, group_ids: Labels) -> Iterator[ChannelSlice]:
    """An axis cut into runs of channels of the same group; channels that cannot go are left out."""
    ids = torch.cat([group_ids, torch.tensor([NONE])])[axis.labels]  # NONE is -1: the last
    cuts = (torch.nonzero(torch.diff(ids)).flatten() + 1).tolist()
    for start, stop in itertools.pairwise([0, *cuts, len(ids)]):
        if start < stop and int(ids[start]) != NONE:  # an axis may be empty
            yield ChannelSlice(axis.name, axis.axis, start, stop)


_Numbers = NDArray[np.int64]


def _incidence(
    axes: Sequence[ParameterAxis], slices: Sequence[ChannelSlice]
) -> tuple[_Numbers, _Numbers]:
    """Which slice holds which atom: pairs of a slice's number and an atom, sorted by atom."""
    lines = {(axis.name, axis.axis): axis.labels.numpy() for axis in axes}
    held = [np.unique(lines[s.name, s.axis][s.start : s.stop]) for s in slices]
    empty = np.empty(0, dtype=np.int64)
    pieces = np.repeat(np.arange(len(slices)), [len(atoms) for atoms in held])
    atoms = np.concatenate([empty, *held])
    order = np.lexsort((pieces, atoms))
    return pieces[order], atoms[order]


def _edges(pieces: _Numbers, atoms: _Numbers) -> Iterator[tuple[int, int]]:
    """Slices that follow each other among those of one atom."""
    same = atoms[1:] == atoms[:-1]
    pairs = np.unique(np.stack([pieces[:-1][same], pieces[1:][same]], axis=1), axis=0)
    yield from map(tuple, pairs.tolist())


def _groups(
    graph: nx.Graph[ChannelSlice],
    slices: Sequence[ChannelSlice],
    pieces: _Numbers,
    atoms: _Numbers,
    pins: dict[int, str],
) -> Iterator[Group]:
    """The connected components, in the order of their first slices."""
    order = {piece: position for position, piece in enumerate(slices)}
    members = [sorted(c, key=order.__getitem__) for c in nx.connected_components(graph)]
    members.sort(key=lambda component: order[component[0]])
    component_of = {piece: i for i, component in enumerate(members) for piece in component}
    units: list[list[Unit]] = [[] for _ in members]
    found, first = np.unique(atoms, return_index=True)
    for atom, piece in zip(found.tolist(), pieces[first].tolist(), strict=True):
        units[component_of[slices[piece]]].append(Unit(atom, pins.get(atom)))
    for index, component in enumerate(members):
        yield Group(index, tuple(component), tuple(units[index]))


# --- text and drawing -----------------------------------------------------------------------------


def _describe(group: Group) -> str:
    reasons = Counter(unit.pinned for unit in group.units if unit.pinned is not None)
    pinned = "".join(f"; {count} pinned: {why}" for why, count in sorted(reasons.items()))
    slices = ", ".join(map(str, group.slices))
    count = f"{len(group.prunable)} of {len(group.units)} units prunable"
    return f"group {group.index}: {count}{pinned}; {slices}"


def _dot(analysis: ChannelAnalysis) -> str:
    numbers = {piece: f"s{i}" for i, piece in enumerate(analysis.graph)}
    lines = ["graph channels {", "  node [shape=box];"]
    for group in analysis.groups:
        title = f"group {group.index}: {len(group.prunable)} of {len(group.units)} units prunable"
        lines += [f"  subgraph cluster_{group.index} {{", f'    label="{title}";']
        lines += [f'    {numbers[piece]} [label="{piece}"];' for piece in group.slices]
        lines.append("  }")
    lines += [f"  {numbers[a]} -- {numbers[b]};" for a, b in analysis.graph.edges]
    return "\n".join([*lines, "}"]) + "\n"
