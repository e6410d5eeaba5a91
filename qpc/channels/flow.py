"""Labels on their way through one graph: what the rules of operators work with.

A value has labels for each of its axes that has channels, such as features and the hidden units of
a layer that mixes tokens. Each of them change along one axis, so that channels can always be taken
out as whole slices; what belongs to a removed channel of any axis goes. Rules of operators are
asked about one axis at a time, but for those that say that they look at all together.

Two kinds of values may wait for their axis to be known: parameters used as values (position
embeddings) and what is computed from such alone. Whatever still changes along several axes when all
operators have been seen is tied then.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
from torch.fx import GraphModule, Node

from qpc.calls import arguments, qpc_ops
from qpc.channels.atoms import (
    NONE,
    Atoms,
    Labels,
    along,
    collapse,
    compact,
    distinct,
    nothing,
    only_along,
    spread,
    varying_axes,
)
from qpc.meta import attribute, info, label
from qpc.registry import Through, op_name, seen_through, spec_of
from qpc.shapes import concrete_shapes
from qpc.types import TensorType

_OWN_WEIGHT = "to prune these channels, give each a weight of its own"

LARGEST_FREE = 2**22
"""How many elements of a parameter or constant are labelled one by one at most."""


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


@dataclass
class Flow:
    """The labels found so far.

    heads: shell patterns of module paths in which heads are pruned whole.
    values: the labels of values, for each axis that has channels, or one of NONE; axes: those of
    parameters; free: those of parameters used as values whose axis is not known yet.
    """

    gm: GraphModule
    heads: tuple[str, ...] = ()
    atoms: Atoms = field(default_factory=Atoms)
    values: dict[Node, tuple[Labels, ...]] = field(default_factory=dict)
    axes: dict[tuple[str, int], ParameterAxis] = field(default_factory=dict)
    free: dict[str, Labels] = field(default_factory=dict)
    origins: list[tuple[int, int]] = field(default_factory=list)
    declined: dict[Node, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._types = concrete_shapes(self.gm, 1)
        self._names = _canonical_names(self.gm)
        self._constants = _constants(self.gm)
        self._pinned_parameters: list[tuple[str, str]] = []
        self._turn: frozenset[int] | None = None
        self._seen: dict[Node, tuple[int, tuple[Labels, ...]]] = {}
        self._read_as_values: set[str] = set()
        self._placed_by: dict[str, Node] = {}

    # --- values ---------------------------------------------------------------------------------

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of a node's value at batch size 1."""
        found = self._types[node]
        return found.shape if isinstance(found, TensorType) else ()

    def is_tensor(self, node: Node) -> bool:
        """Whether the value of `node` is one tensor."""
        return isinstance(self._types[node], TensorType)

    def size(self, node: Node) -> object:
        """A value that is no tensor: a size, at batch size 1."""
        return self._types[node]

    def may_be_bool(self, node: Node) -> bool:
        """Whether a value picks by True and False instead of by number."""
        found = self._types[node]
        return not isinstance(found, TensorType) or found.dtype in (torch.bool, torch.uint8)

    def every(self, node: Node) -> tuple[Labels, ...]:
        """The labels of a value for each axis that has channels, or one of NONE; compact."""
        if node.op == "get_attr":
            self.values[node] = self._free_parameter(node)
        elif node not in self.values:
            self.visit(node)
        since, found = self._seen.get(node, (-1, ()))
        if since < self.atoms.changes or node.op == "get_attr":
            found = tuple(compact(self.atoms.find(labels)) for labels in self.values[node])
            self._seen[node] = self.atoms.changes, found
        return found

    def of(self, node: Node) -> Labels:
        """The labels of a value for the axis that is looked at, in terms of representatives."""
        if node.op == "get_attr" and not self._is_looked_at(self._wide_axes(node)):
            self._read_as_values.add(self.name(node))
            return nothing(self.shape(node))
        return self.pick(self.every(node), self.shape(node))

    def pick(self, every: Iterable[Labels], shape: tuple[int, ...]) -> Labels:
        """Those labels that are for the axis that is looked at, or NONE."""
        found = (labels for labels in every if self._is_looked_at(_from_last(labels)))
        return next(found, nothing(shape))

    def visit(self, node: Node) -> None:
        """Find the labels of one call's value."""
        spec, outer = spec_of(node), self._turn
        found: list[Labels] = []
        self._turn = None
        if node.target is operator.getitem:
            found += self._item(node)
        elif any(0 in self.shape(source) for source in node.all_input_nodes):
            found.append(pin_inputs(self, node, f"{describe(node)} reads an empty tensor"))
        elif spec is not None and spec.channels_together is not None:
            found += spec.channels_together(self, node)
        elif spec is not None and spec.channels is not None:
            found += [spec.channels(self, node) for _ in self.turns(node.all_input_nodes)]
        else:
            found.append(pin_inputs(self, node))
        self._turn = outer
        self.values[node] = self.apart(node, found)

    def turns(self, sources: Sequence[Node | tuple[Labels, ...]]) -> Iterator[None]:
        """Look at one axis of the channels of some values after the other, counted from the last.

        Axes between which labels have not decided yet are looked at together, but decide where
        others have channels on more than one of them. Without any channels there is one turn.
        """
        known = [axes for source in sources for axes in self._axes_in(source) if axes]
        if len({axes for axes in known if len(axes) == 1}) > 1:
            for labels in (labels for source in sources for labels in self._known(source)):
                self._tie(labels)
            known = [axes for source in sources for axes in self._axes_in(source) if axes]
        turns: list[frozenset[int]] = []
        for axes in dict.fromkeys(known):
            touching = [turn for turn in turns if turn & axes]
            turns = [turn for turn in turns if not turn & axes]
            turns.append(axes.union(*touching))
        outer = self._turn
        for turn in sorted(turns, key=sorted) or (None,):
            self._turn = turn
            yield
        self._turn = outer

    def apart(self, node: Node, found: Sequence[Labels]) -> tuple[Labels, ...]:
        """At most one of the labels for each axis of a value; the fewer channels have to stay.

        Of several those that have to stay anyway are left out.
        """
        every = [compact(self.atoms.find(labels)) for labels in found]
        some = [labels for labels in every if bool((collapse(labels)[0] != NONE).any())]
        if len(some) < 2:
            return tuple(some or every[:1])
        some = [labels for labels in some if not self.atoms.fixed(labels)] or some[:1]
        kept: list[Labels] = []
        for labels in sorted(some, key=lambda each: distinct(collapse(each)[0]), reverse=True):
            if any(set(varying_axes(labels)) & set(varying_axes(other)) for other in kept):
                self.decline(node, labels, f"{describe(node)} joins two axes with channels")
            else:
                kept.append(labels)
        return tuple(kept)

    def _item(self, node: Node) -> tuple[Labels, ...]:
        """One of several results."""
        source, shape = node.all_input_nodes[0], self.shape(node)
        if source not in self.values:
            return (nothing(shape),)
        return tuple(labels.expand(shape) for labels in self.every(source))

    def line(self, node: Node, value: Node, axis: int) -> Labels:
        """The channels of `value` along the axis that the operator `node` works on: int64[size].

        Channels on another axis have to stay; where labels change along this axis and others, the
        others are tied.
        """
        line, others = self.across(node, value, axis)
        for labels in others:
            self.decline(node, labels, f"{describe(node)} needs channels on another axis")
        return line

    def across(self, node: Node, value: Node, axis: int) -> tuple[Labels, list[Labels]]:
        """As `line`, and the labels of the channels on other axes, which may pass."""
        shape = self.shape(value)
        axis %= len(shape)
        line, others = nothing(shape[axis : axis + 1]), []
        for labels in self.looked_at(value):
            if (axes := varying_axes(labels)) and axis not in axes:
                others.append(labels)
            else:
                line = self.line_of(node, labels, axis)
        return line, others

    def line_of(self, node: Node, labels: Labels, axis: int) -> Labels:
        """As `line`, for labels that are no node's."""
        axes, axis = varying_axes(labels), axis % labels.dim()
        if axes and axis not in axes:
            self.decline(node, labels, f"{describe(node)} needs channels on another axis")
            return nothing(labels.shape[axis : axis + 1])
        if len(axes) > 1:
            self.atoms.unite(labels, only_along(labels, axis), "")
        return self.atoms.find(along(labels, axis))

    def looked_at(self, value: Node) -> tuple[Labels, ...]:
        """The labels of a value for the axis that is looked at, or for all if none is."""
        return self.every(value) if self._turn is None else (self.of(value),)

    def passed(self, node: Node, others: Iterable[Labels]) -> Iterator[Labels]:
        """The labels of channels that an operator lets pass, on the same axes of its result."""
        for labels in others:
            axis = varying_axes(labels)[-1]
            yield spread(self.line_of(node, labels, axis), axis, self.shape(node))

    def _is_looked_at(self, axes: frozenset[int]) -> bool:
        return self._turn is None or not axes or bool(axes & self._turn)

    def _known(self, source: Node | tuple[Labels, ...]) -> tuple[Labels, ...]:
        """The labels that a source has by now, which a parameter may be given later."""
        if not isinstance(source, Node):
            return tuple(compact(self.atoms.find(labels)) for labels in source)
        if not self.is_tensor(source) or (source.op == "get_attr" and not self.has_labels(source)):
            return ()
        return self.every(source)

    def _axes_in(self, source: Node | tuple[Labels, ...]) -> list[frozenset[int]]:
        """The axes, counted from the last, of all channels that a source has by now."""
        return [_from_last(labels) for labels in self._known(source)]

    def _wide_axes(self, parameter: Node) -> frozenset[int]:
        shape = self.shape(parameter)
        return frozenset(axis - len(shape) for axis, size in enumerate(shape) if size > 1)

    def decline(self, node: Node, labels: Labels, why: str) -> None:
        """Pin labels, and note the operator that is the reason if there was anything to pin."""
        if bool((collapse(labels)[0] != NONE).any()):
            self.atoms.pin(labels, why)
            self.declined.setdefault(node, why)

    # --- atoms ----------------------------------------------------------------------------------

    def new(self, count: int) -> Labels:
        """Fresh atoms that belong together in one group."""
        start = len(self.atoms)
        self.origins.append((start, start + count))
        return self.atoms.new(count)

    # --- parameters -----------------------------------------------------------------------------

    def parameter(self, node: Node) -> Node | None:
        """The parameter that is, but for rounding and observing, the value of `node`."""
        while seen_through(node) is Through.WHOLE:
            node = node.all_input_nodes[0]
        return node if node.op == "get_attr" else None

    def produce(self, weight: Node, axis: int) -> Labels:
        """The output channels of a layer: atoms on a weight axis, the same for every use."""
        name = self._layer_parameter(weight, axis)
        if (known := self.axes.get((name, axis))) is None:
            size = attribute(self.gm, name).shape[axis]
            self.axes[name, axis] = ParameterAxis(name, axis, self.new(size), produces=True)
        elif not known.produces:
            self.axes[name, axis] = replace(known, produces=True)
        self._wrappers_follow(weight, axis)
        return self.axes[name, axis].labels

    def consume(self, parameter: Node, axis: int, labels: Labels) -> None:
        """Let a parameter axis have the channels `labels`, one for each index."""
        name = self._layer_parameter(parameter, axis)
        known = self.axes.get((name, axis))
        if known is None:
            self.axes[name, axis] = ParameterAxis(name, axis, labels, produces=False)
        else:
            readers = " and ".join(map(describe, self.readers(parameter)))
            keeps = f"{name} is shared by {readers}, one of which keeps all its channels"
            self.atoms.unite(known.labels, labels, f"{keeps}; {_OWN_WEIGHT}")
        self._wrappers_follow(parameter, axis)

    def readers(self, parameter: Node) -> list[Node]:
        """The calls that read a parameter, under any of its names."""
        source = self.parameter(parameter)
        assert source is not None
        named = (node for node in self.gm.graph.nodes if node.op == "get_attr")
        return list(_seen_by(node for node in named if self.name(node) == self.name(source)))

    def looked_up(self, node: Node, table: Node, axis: int) -> None:
        """Pin what a parameter axis has, of whose indices an operator is given the numbers."""
        numbers = self.new(self.shape(table)[axis])
        self.consume(table, axis, numbers)
        why = f"{describe(node)} looks up {self.name(self.parameter(table) or table)} by number"
        if others := [describe(n) for n in self.readers(table) if n is not node]:
            why += f", and {' and '.join(others)} shares it; {_OWN_WEIGHT}"
        self.atoms.pin(numbers, why)

    def attach(self, node: Node, part: Node | None, axis: int, labels: Labels) -> None:
        """As `consume`, for an argument of `node` that may also be missing or computed."""
        if part is None:
            return
        if self.parameter(part) is not None:
            self.consume(part, axis, labels)
        else:
            theirs = self.line(node, part, axis)
            self.atoms.unite(theirs, labels, f"{describe(node)} computes one of its parameters")

    def rows(self, node: Node) -> tuple[Node, slice] | None:
        """A parameter and which of its rows are the value of `node`, all of them mostly."""
        if (source := self.parameter(node)) is not None:
            return source, slice(None)
        if seen_through(node) is not Through.ROWS:
            return None
        given = arguments(node)
        start, end = given["start"], given["end"]
        source = self.parameter(given["self"])
        plain = isinstance(start, int) and isinstance(end, int) and given["step"] == 1
        if source is None or not plain or given["dim"] != 0:
            return None
        return source, slice(start, end)

    def waits(self, node: Node) -> bool:
        """Whether a value is a parameter, more or less, which layers look through."""
        return self.matrix(node) is not None or self.rows(node) is not None

    def matrix(self, node: Node) -> tuple[Node, list[int]] | None:
        """A parameter whose axes may be permuted, and which of its axes each axis of `node` is."""
        if (source := self.parameter(node)) is not None:
            return source, list(range(len(self.shape(source))))
        if seen_through(node) is not Through.PERMUTED:
            return None
        inner = self.matrix(node.all_input_nodes[0])
        return inner and (inner[0], [inner[1][axis] for axis in arguments(node)["dims"]])

    def is_constant(self, node: Node) -> bool:
        """Whether a call computes something from parameters and constants alone.

        Its labels are looked for only where a value meets it: those of a weight that is computed
        would be one for each of its elements, and could not go anyway.
        """
        return node in self._constants

    def pin_behind(self, constant: Node, why: str) -> None:
        """Pin the channels of all parameters that a constant is computed from."""
        pending, seen = [constant], {constant}
        while pending:
            for source in pending.pop().all_input_nodes:
                if source.op == "get_attr":
                    self.pin_parameter(source, why)
                elif source not in seen:
                    seen.add(source)
                    pending.append(source)

    def pin_parameter(self, parameter: Node, why: str) -> None:
        """Pin whatever channels a parameter turns out to have."""
        self._pinned_parameters.append((self._names[str(parameter.target)], why))

    def name(self, parameter: Node) -> str:
        """One name for a parameter that has several."""
        return self._names[str(parameter.target)]

    def _layer_parameter(self, node: Node, axis: int) -> str:
        """The name of a parameter that a layer reads by its axes.

        A value that it was before had nothing along an axis that is new.
        """
        source = self.parameter(node)
        assert source is not None
        name = self.name(source)
        if name in self._read_as_values and (name in self.free or (name, axis) not in self.axes):
            self.pin_parameter(source, f"{name} is used as a weight and as a value")
        return name

    def _wrappers_follow(self, node: Node, axis: int) -> None:
        """Grids for each channel of a fake-quantized weight have its channels."""
        while seen_through(node) is Through.WHOLE:
            source = node.all_input_nodes[0]
            if node.target is qpc_ops.fake_quantize.default and arguments(node)["axis"] == axis:
                for part in node.all_input_nodes[1:]:
                    self._follow(node, part, axis)
            node = source

    def grids_follow(self, weight: Node, line: Labels) -> None:
        """Grids for each output channel of all groups of a fake-quantized weight have `line`."""
        while seen_through(weight) is Through.WHOLE:
            source = weight.all_input_nodes[0]
            if weight.target is qpc_ops.fake_quantize.default and arguments(weight)["groups"] > 1:
                for part in weight.all_input_nodes[1:]:
                    shape = self.shape(part)
                    if part.op == "get_attr" and shape[-1:] == tuple(line.shape):
                        self.consume(part, len(shape) - 1, line)
            weight = source

    def _follow(self, node: Node, part: Node, axis: int) -> None:
        source = self.parameter(node)
        assert source is not None
        line = self.axes[self.name(source), axis].labels
        if part.op != "get_attr":
            return  # steps that are computed, from parameters that have the same channels
        shape = self.shape(part)  # float[channels], or ranges[values, 2, channels]
        key = (self.name(part), len(shape) - 1)
        if shape[-1:] == tuple(line.shape) and key not in self.axes:
            self.axes[key] = ParameterAxis(*key, line, produces=False)

    def _free_parameter(self, node: Node) -> tuple[Labels, ...]:
        """A parameter used as a value: labels of its known axes, or of each of its elements."""
        name, shape = self.name(node), self.shape(node)
        self._read_as_values.add(name)
        if name in self.free:
            return (self.free[name],)
        wide = [axis for axis, size in enumerate(shape) if size > 1]
        if known := [axis for axis in wide if (name, axis) in self.axes]:
            return tuple(spread(self.axes[name, axis].labels, axis, shape) for axis in known)
        if not wide or not attribute(self.gm, name).is_floating_point():
            return (nothing(shape),)
        if len(wide) == 1:
            (axis,) = wide
            line = self.new(shape[axis])
            self.axes[name, axis] = ParameterAxis(name, axis, line, produces=False)
            return (spread(line, axis, shape),)
        count = torch.Size(shape).numel()
        fits = count <= LARGEST_FREE
        self.free[name] = self.new(count).reshape(shape) if fits else nothing(shape)
        return (self.free[name],)

    def has_labels(self, node: Node) -> bool:
        """Whether anything is known about the channels of a parameter."""
        name = self.name(node)
        return name in self.free or any(n == name for n, _ in self.axes)

    def is_unplaced(self, value: Node, reader: Node) -> bool:
        """Whether a value is a parameter that takes any axes for channels that `reader` has."""
        if value.op != "get_attr" or len(self._wide_axes(value)) < 2:
            return False
        return not self.has_labels(value) or self._placed_by.get(self.name(value)) is reader

    def place(self, value: Node, reader: Node, axis: int, labels: Labels) -> bool:
        """Give a parameter used as a value an axis of channels, if that is open to its reader."""
        name, shape = self.name(value), self.shape(value)
        floating = attribute(self.gm, name).is_floating_point()
        taken = (name, axis) in self.axes or not self.is_unplaced(value, reader)
        if taken or shape[axis] == 1 or not floating:
            return False
        self._read_as_values.add(name)
        self._placed_by[name] = reader
        self.axes[name, axis] = ParameterAxis(name, axis, labels, produces=False)
        return True

    # --- the end --------------------------------------------------------------------------------

    def settle(self) -> None:
        """Tie what changes along several axes; pin what must stay once all channels are known."""
        for name, why in self._pinned_parameters:
            for axis in self.axes.values():
                if axis.name == name:
                    self.atoms.pin(axis.labels, why)
            if name in self.free:
                self.atoms.pin(self.free[name], why)
        everything = [(name, labels) for name, labels in self.free.items()]
        everything += [(n.name, labels) for n, every in self.values.items() for labels in every]
        while sum(self._tie(labels) for _, labels in everything):  # all of them, each round
            pass
        for node, every in self.values.items():
            if len(every) > 1:
                self.apart(node, every)
        for name, labels in everything:
            self._pin_the_last(labels, name)
        for axis in self.axes.values():
            self._pin_the_last(axis.labels, axis.name)

    def _tie(self, labels: Labels) -> bool:
        """Leave labels that change along one axis only; return whether any were united for it.

        Where some elements have none, as values between channels, all have to stay.
        """
        settled = compact(self.atoms.find(labels))
        axes = varying_axes(settled)
        if len(axes) < 2:
            return False
        axis = max(axes, key=lambda a: (self._tied_along(settled, a), a))
        before = self.atoms.changes
        self.atoms.unite(settled, only_along(settled, axis), "")
        if self.atoms.changes == before:
            self.atoms.pin(settled, "other values stand between its channels")
        return self.atoms.changes > before

    def _tied_along(self, labels: Labels, axis: int) -> int:
        """How many places along an axis are tied to layers each by itself: channels, it seems."""
        core = collapse(labels)[0].movedim(axis, 0).flatten(1)
        lines = [a.labels for a in self.axes.values()]
        elsewhere = torch.cat([torch.empty(0, dtype=torch.int64), *lines])
        tied = torch.isin(core, self.atoms.find(elsewhere)) & (core != NONE)
        places = [torch.unique(row[t]) for row, t in zip(core, tied, strict=True) if bool(t.any())]
        if not places:
            return 0
        everything = torch.cat(places)
        return len(places) if len(torch.unique(everything)) == len(everything) else 0

    def _pin_the_last(self, labels: Labels, name: str) -> None:
        """Channels that are all that a tensor has must stay."""
        core = collapse(self.atoms.find(labels))[0]
        if core.numel() and int(core.min()) == int(core.max()):
            self.atoms.pin(core, f"nothing else would be left of {name}")

    def prunes_heads(self, node: Node) -> bool:
        """Whether split channels at `node` are to go as whole heads."""
        return any(fnmatchcase(info(node).module_path, pattern) for pattern in self.heads)


def _seen_by(parameters: Iterable[Node]) -> Iterator[Node]:
    """The calls that read parameters, those that layers see through left out."""
    for node in parameters:
        for user in node.users:
            if seen_through(user) is None:
                yield user
            else:
                yield from _seen_by([user])


def _from_last(labels: Labels) -> frozenset[int]:
    """The axes along which labels change, counted from the last."""
    return frozenset(axis - labels.dim() for axis in varying_axes(labels))


def pin_inputs(flow: Flow, node: Node, why: str | None = None) -> Labels:
    """Pin the channels of every input; the value itself carries none."""
    reason = why or f"{describe(node)} is not understood"
    for source in node.all_input_nodes:
        if (parameter := flow.parameter(source)) is not None:
            flow.pin_parameter(parameter, reason)
        elif flow.is_constant(source):
            flow.pin_behind(source, reason)
        elif flow.is_tensor(source):
            for labels in flow.looked_at(source):
                flow.decline(node, labels, reason)
    return nothing(flow.shape(node))


def _constants(gm: GraphModule) -> frozenset[Node]:
    """The calls that depend on no input."""
    found: set[Node] = set()
    for node in gm.graph.nodes:
        known = (source.op == "get_attr" or source in found for source in node.all_input_nodes)
        if node.op == "call_function" and all(known):
            found.add(node)
    return frozenset(found)


def describe(node: Node) -> str:
    """How reasons name an operator: `layer_norm of encoder.ln (layer_norm_3)`."""
    return f"{op_name(node)} of {label(node)}"


def _canonical_names(gm: GraphModule) -> dict[str, str]:
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            names[name] = first.setdefault(id(attribute(gm, name)), name)
    return names
