"""Which channels of which parameters must be pruned together: dependency analysis by labels.

Every channel of every parameter axis is an atom. Tensors of atom labels flow through the graph by
running the data-movement operators themselves on them, so concat, split, reshape, permute, roll and
channel shuffle need no rule of their own. Operators that tie channels (add, depthwise convolution,
norms) unite atoms; operators that are not understood pin theirs. Sets of united atoms are *units*,
which are pruned whole.

Where a reshape splits channels over several axes, as attention splits them into heads, only whole
slices along
one of these axes can go: by default the inner one (the same channel of every head), or the outer
one (whole heads), see `heads`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import networkx as nx
import torch
from torch.fx import GraphModule, Node

from qpc.analysis.atoms import NONE, Atoms, Labels, along, compact, nothing
from qpc.meta import attribute, info, label
from qpc.ops.registry import is_shape_arithmetic, op_name
from qpc.shapes import TensorType, concrete_shapes


@dataclass(frozen=True)
class ParameterAxis:
    """The atoms along one axis of a parameter or buffer.

    name: the tensor's name; axis: the axis; labels: int64[size of the axis], NONE where nothing can
    go.
    produces: whether the atoms are output channels of the operator that owns the parameter.
    """

    name: str
    axis: int
    labels: Labels
    produces: bool


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

    values: the labels of every tensor in the graph, at batch size 1.
    axes: the atoms of every parameter axis that has any.
    free: labels of parameters used as values, such as position embeddings, by name; full shape.
    graph: channel slices, joined where they share channels.
    groups: its connected components.
    """

    atoms: Atoms
    values: dict[Node, Labels]
    axes: tuple[ParameterAxis, ...]
    free: dict[str, Labels]
    graph: nx.Graph[ChannelSlice]
    groups: tuple[Group, ...]
    declined: dict[Node, str]

    def group_of(self, name: str, axis: int = 0) -> Group | None:
        """The first group that holds channels of a parameter axis."""
        return next(
            (g for g in self.groups if any((s.name, s.axis) == (name, axis) for s in g.slices)),
            None,
        )

    def __str__(self) -> str:
        return "\n".join(_describe(group) for group in self.groups)


def analyze_channels(gm: GraphModule, *, heads: str | tuple[str, ...] = ()) -> ChannelAnalysis:
    """Find what can be pruned, and what must be pruned together, in a core-form graph.

    heads: shell patterns of module paths in which channels split over two axes (attention heads)
    are to be pruned as whole heads. Cost: one run of the graph's data movement on labels; linear in
    the graph.
    """
    from qpc.analysis.channel_rules import RULES, pin_inputs

    patterns = (heads,) if isinstance(heads, str) else heads
    flow = Flow(gm, patterns)
    for node in gm.graph.nodes:
        if node.op == "output":
            for value in node.all_input_nodes:
                flow.atoms.pin(flow.of(value), "it reaches the output of the graph")
        elif node.op == "placeholder":
            flow.put(node, nothing(flow.shape(node)))
        elif node.op == "call_function" and flow.is_tensor(node):
            rule = RULES.get(node.target)
            flow.put(node, rule(flow, node) if rule is not None else pin_inputs(flow, node))
        elif node.op == "call_function" and not is_shape_arithmetic(node):
            pin_inputs(flow, node)
    return _summary(flow)


@dataclass
class Flow:
    """Labels on their way through one graph."""

    gm: GraphModule
    heads: tuple[str, ...] = ()
    atoms: Atoms = field(default_factory=Atoms)
    values: dict[Node, Labels] = field(default_factory=dict)
    axes: dict[tuple[str, int], ParameterAxis] = field(default_factory=dict)
    free: dict[str, Labels] = field(default_factory=dict)
    origins: list[tuple[int, int]] = field(default_factory=list)
    declined: dict[Node, str] = field(default_factory=dict)
    pinned_parameters: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._types = concrete_shapes(self.gm, 1)
        self._names = _canonical_names(self.gm)

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of a node's value at batch size 1."""
        found = self._types[node]
        return found.shape if isinstance(found, TensorType) else ()

    def is_tensor(self, node: Node) -> bool:
        """Whether the value of `node` is one tensor."""
        return isinstance(self._types[node], TensorType)

    def of(self, node: Node) -> Labels:
        """The labels of a value, in terms of representatives."""
        if node.op == "get_attr" and node not in self.values:
            self.put(node, self._free_parameter(node))
        return self.atoms.find(self.values[node])

    def put(self, node: Node, labels: Labels) -> None:
        """Set the labels of a value."""
        self.values[node] = compact(labels)

    def new(self, count: int) -> Labels:
        """Fresh atoms that belong together in one group."""
        start = len(self.atoms)
        self.origins.append((start, start + count))
        return self.atoms.new(count)

    def produce(self, weight: Node, axis: int) -> Labels:
        """The output channels of a layer: atoms on a weight axis, the same for every use."""
        name = self.name(weight)
        if (name, axis) not in self.axes:
            size = self.shape(weight)[axis]
            self.axes[name, axis] = ParameterAxis(name, axis, self.new(size), produces=True)
        return self.axes[name, axis].labels

    def consume(self, parameter: Node, axis: int, labels: Labels, why: str) -> None:
        """Let a parameter axis have the channels `labels`, one for each index."""
        name = self.name(parameter)
        known = self.axes.get((name, axis))
        if known is None:
            self.axes[name, axis] = ParameterAxis(name, axis, labels, produces=False)
        else:
            self.atoms.unite(known.labels, labels, why)

    def pin_parameter(self, parameter: Node, why: str) -> None:
        """Pin whatever channels a parameter turns out to have."""
        self.pinned_parameters.append((self.name(parameter), why))

    def settle(self) -> None:
        """Apply the pins of parameters, once all their channels are known."""
        for pinned, why in self.pinned_parameters:
            for (name, _), axis in self.axes.items():
                if name == pinned:
                    self.atoms.pin(axis.labels, why)
            if pinned in self.free:
                self.atoms.pin(self.free[pinned], why)

    def prunes_heads(self, node: Node) -> bool:
        """Whether split channels at `node` are to go as whole heads."""
        return any(fnmatchcase(info(node).module_path, pattern) for pattern in self.heads)

    def name(self, parameter: Node) -> str:
        """One name for a parameter that has several."""
        return self._names[str(parameter.target)]

    def _free_parameter(self, node: Node) -> Labels:
        """A parameter used as a value: an atom for each element, to be tied to what it meets."""
        name = self.name(node)
        if name not in self.free:
            shape = self.shape(node)
            count = int(torch.Size(shape).numel())
            floating = attribute(self.gm, name).is_floating_point()
            fresh = self.atoms.new(count).reshape(shape) if floating else nothing(shape)
            self.free[name] = fresh
        return self.free[name]


def _canonical_names(gm: GraphModule) -> dict[str, str]:
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            names[name] = first.setdefault(id(attribute(gm, name)), name)
    return names


def _summary(flow: Flow) -> ChannelAnalysis:
    flow.settle()
    axes = [
        ParameterAxis(a.name, a.axis, flow.atoms.find(a.labels), a.produces)
        for a in flow.axes.values()
    ]
    free = {name: flow.atoms.find(labels) for name, labels in flow.free.items()}
    axes += [axis for name, labels in free.items() for axis in _axes_of_free(name, labels)]
    group_ids = _group_ids(flow)
    graph: nx.Graph[ChannelSlice] = nx.Graph()
    by_unit: dict[int, list[ChannelSlice]] = {}
    for axis in axes:
        for piece in _runs(axis, group_ids):
            graph.add_node(piece)
            for atom in torch.unique(axis.labels[piece.start : piece.stop]).tolist():
                by_unit.setdefault(atom, []).append(piece)
    for pieces in by_unit.values():
        nx.add_path(graph, dict.fromkeys(pieces))
    return ChannelAnalysis(
        flow.atoms,
        {node: flow.atoms.find(labels) for node, labels in flow.values.items()},
        tuple(axes),
        free,
        graph,
        tuple(_groups(graph, by_unit, flow.atoms.pins())),
        flow.declined,
    )


def _axes_of_free(name: str, labels: Labels) -> Iterator[ParameterAxis]:
    """The one axis of a free parameter along which its labels change, after all ties are known."""
    settled = compact(labels)
    changing = [
        i
        for i, (s, n) in enumerate(zip(settled.stride(), settled.shape, strict=True))
        if n > 1 and s
    ]
    if len(changing) == 1:
        yield ParameterAxis(name, changing[0], along(settled, changing[0]), produces=False)


def _group_ids(flow: Flow) -> Labels:
    """For each atom a number that all atoms of its group share."""
    groups = Atoms()
    groups.new(len(flow.atoms))
    everything = torch.arange(len(flow.atoms))
    groups.unite(everything, flow.atoms.find(everything), "")
    for start, stop in flow.origins:
        groups.unite(torch.tensor([start]), torch.arange(start, stop), "")
    return groups.find(everything)


def _runs(axis: ParameterAxis, group_ids: Labels) -> Iterator[ChannelSlice]:
    """An axis cut into runs of channels of the same group; channels that cannot go are left out."""
    ids = torch.where(axis.labels == NONE, NONE, group_ids[axis.labels]).tolist()
    start = 0
    for stop in range(1, len(ids) + 1):
        if stop == len(ids) or ids[stop] != ids[start]:
            if ids[start] != NONE:
                yield ChannelSlice(axis.name, axis.axis, start, stop)
            start = stop


def _groups(
    graph: nx.Graph[ChannelSlice], by_unit: dict[int, list[ChannelSlice]], pins: dict[int, str]
) -> Iterator[Group]:
    order = {piece: position for position, piece in enumerate(graph)}
    component = {
        piece: number
        for number, pieces in enumerate(nx.connected_components(graph))
        for piece in pieces
    }
    units: dict[int, list[Unit]] = {}
    for atom, pieces in by_unit.items():
        if atom != NONE:
            units.setdefault(component[pieces[0]], []).append(Unit(atom, pins.get(atom)))
    members: dict[int, list[ChannelSlice]] = {}
    for piece, number in component.items():
        members.setdefault(number, []).append(piece)
    for index, number in enumerate(
        sorted(members, key=lambda n: min(order[p] for p in members[n]))
    ):
        slices = sorted(members[number], key=order.__getitem__)
        yield Group(index, tuple(slices), tuple(units.get(number, [])))


def _describe(group: Group) -> str:
    reasons = sorted({unit.pinned for unit in group.units if unit.pinned})
    pinned = f", pinned: {'; '.join(reasons)}" if reasons else ""
    slices = ", ".join(map(str, group.slices))
    count = f"{len(group.prunable)} of {len(group.units)} units prunable"
    return f"group {group.index}: {count}{pinned}; {slices}"


def describe_node(node: Node) -> str:
    """How reasons name an operator: `layer_norm of encoder.ln (layer_norm_3)`."""
    return f"{op_name(node)} of {label(node)}"
