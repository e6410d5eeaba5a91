"""Labels on their way through one graph: what the rules of operators work with.

Labels of a value change along at most one axis, so that channels can always be taken out as whole
slices. Two kinds of values may wait for their axis to be known: parameters used as values (position
embeddings) and what is computed from such alone. Whatever still changes along several axes when all
operators have been seen is tied then.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
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
    nothing,
    only_along,
    spread,
    varying_axes,
)
from qpc.meta import attribute, info, label
from qpc.registry import Through, op_name, seen_through, spec_of
from qpc.shapes import concrete_shapes
from qpc.types import TensorType

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
    values: the labels of values; axes: those of parameters; free: those of parameters used as
    values whose axis is not known yet.
    """

    gm: GraphModule
    heads: tuple[str, ...] = ()
    atoms: Atoms = field(default_factory=Atoms)
    values: dict[Node, Labels] = field(default_factory=dict)
    axes: dict[tuple[str, int], ParameterAxis] = field(default_factory=dict)
    free: dict[str, Labels] = field(default_factory=dict)
    origins: list[tuple[int, int]] = field(default_factory=list)
    declined: dict[Node, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._types = concrete_shapes(self.gm, 1)
        self._names = _canonical_names(self.gm)
        self._constants = _constants(self.gm)
        self._pinned_parameters: list[tuple[str, str]] = []
        self._imagined: list[Labels] = []

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

    def of(self, node: Node) -> Labels:
        """The labels of a value, in terms of representatives, compact."""
        if node.op == "get_attr":
            self.values[node] = self._free_parameter(node)
        elif node not in self.values:
            self.visit(node)
        return compact(self.atoms.find(self.values[node]))

    def visit(self, node: Node) -> None:
        """Find the labels of one call's value."""
        spec = spec_of(node)
        if node.target is operator.getitem:
            found = self._item(node)
        elif spec is not None and spec.channels is not None:
            found = spec.channels(self, node)
        else:
            found = pin_inputs(self, node)
        self.values[node] = compact(self.atoms.find(found))

    def _item(self, node: Node) -> Labels:
        """One of several results."""
        source = node.all_input_nodes[0]
        if source not in self.values:
            return nothing(self.shape(node))
        return compact(self.of(source)).expand(self.shape(node))

    def line(self, node: Node, value: Node, axis: int) -> Labels:
        """The channels of `value` along the axis that the operator `node` works on: int64[size].

        Channels on another axis have to stay; where labels change along this axis and others, the
        others are tied.
        """
        return self.line_of(node, self.of(value), axis)

    def line_of(self, node: Node, labels: Labels, axis: int) -> Labels:
        """As `line`, for labels that are no node's."""
        axes, axis = varying_axes(labels), axis % labels.dim()
        if axes and axis not in axes:
            self.decline(node, labels, f"{describe(node)} needs channels on another axis")
            return nothing(labels.shape[axis : axis + 1])
        if len(axes) > 1:
            self.atoms.unite(labels, only_along(labels, axis), "")
        return self.atoms.find(along(labels, axis))

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

    def imagine(self, count: int) -> Labels:
        """Fresh atoms for repeated elements, which may or may not turn out to be channels."""
        made = self.new(count)
        self._imagined.append(made)
        return made

    def is_imagined(self, labels: Labels) -> bool:
        """Whether labels are still those of repeated elements alone."""
        if not self._imagined:
            return False
        known = self.atoms.find(torch.cat(self._imagined))
        core = collapse(labels)[0]
        return bool((torch.isin(core, known) | (core == NONE)).all()) and not self._on_parameter(
            core
        )

    def _on_parameter(self, core: Labels) -> bool:
        lines = [axis.labels for axis in self.axes.values()]
        return bool(lines) and bool(
            torch.isin(core[core != NONE], self.atoms.find(torch.cat(lines))).any()
        )

    # --- parameters -----------------------------------------------------------------------------

    def parameter(self, node: Node) -> Node | None:
        """The parameter that is, but for rounding and observing, the value of `node`."""
        while seen_through(node) is Through.WHOLE:
            node = node.all_input_nodes[0]
        return node if node.op == "get_attr" else None

    def produce(self, weight: Node, axis: int) -> Labels:
        """The output channels of a layer: atoms on a weight axis, the same for every use."""
        name = self._layer_parameter(weight)
        if (name, axis) not in self.axes:
            size = attribute(self.gm, name).shape[axis]
            self.axes[name, axis] = ParameterAxis(name, axis, self.new(size), produces=True)
        self._wrappers_follow(weight, axis)
        return self.axes[name, axis].labels

    def consume(self, parameter: Node, axis: int, labels: Labels) -> None:
        """Let a parameter axis have the channels `labels`, one for each index."""
        name = self._layer_parameter(parameter)
        known = self.axes.get((name, axis))
        if known is None:
            self.axes[name, axis] = ParameterAxis(name, axis, labels, produces=False)
        else:
            why = f"{name} is shared with a place that keeps all channels"
            self.atoms.unite(known.labels, labels, why)
        self._wrappers_follow(parameter, axis)

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

    def _layer_parameter(self, node: Node) -> str:
        """The name of a parameter that a layer reads by its axes."""
        source = self.parameter(node)
        assert source is not None
        name = self.name(source)
        if name in self.free:
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

    def _free_parameter(self, node: Node) -> Labels:
        """A parameter used as a value: labels of its only axis, or of each of its elements."""
        name, shape = self.name(node), self.shape(node)
        if name in self.free:
            return self.free[name]
        wide = [axis for axis, size in enumerate(shape) if size > 1]
        known = [axis for axis in wide if (name, axis) in self.axes]
        if len(known) > 1:
            self.pin_parameter(node, f"{name} is used as a weight and as a value")
            return nothing(shape)
        if known:
            return spread(self.axes[name, known[0]].labels, known[0], shape)
        if not wide or not attribute(self.gm, name).is_floating_point():
            return nothing(shape)
        if len(wide) == 1:
            (axis,) = wide
            line = self.new(shape[axis])
            self.axes[name, axis] = ParameterAxis(name, axis, line, produces=False)
            return spread(line, axis, shape)
        count = torch.Size(shape).numel()
        fits = count <= LARGEST_FREE
        self.free[name] = self.new(count).reshape(shape) if fits else nothing(shape)
        return self.free[name]

    def has_labels(self, node: Node) -> bool:
        """Whether anything is known about the channels of a parameter."""
        name = self.name(node)
        return name in self.free or any(n == name for n, _ in self.axes)

    def place(self, node: Node, axis: int, labels: Labels) -> bool:
        """Give a parameter used as a value its channel axis, if it has none yet."""
        name, shape = self.name(node), self.shape(node)
        floating = attribute(self.gm, name).is_floating_point()
        if self.has_labels(node) or shape[axis] == 1 or not floating:
            return False
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
        everything = (*self.free.values(), *self.values.values())
        while sum(self._tie(labels) for labels in everything):  # all of them, each round
            pass
        for node, labels in self.values.items():
            self._pin_the_last(labels, node.name)
        for axis in self.axes.values():
            self._pin_the_last(axis.labels, axis.name)

    def _tie(self, labels: Labels) -> bool:
        """Leave labels that change along one axis only; return whether there was anything to do."""
        settled = compact(self.atoms.find(labels))
        axes = varying_axes(settled)
        if len(axes) < 2:
            return False
        axis = max(axes, key=lambda a: (self._tied_along(settled, a), a))
        self.atoms.unite(settled, only_along(settled, axis), "")
        return True

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


def pin_inputs(flow: Flow, node: Node, why: str | None = None) -> Labels:
    """Pin the channels of every input; the value itself carries none."""
    reason = why or f"{describe(node)} is not understood"
    for source in node.all_input_nodes:
        if (parameter := flow.parameter(source)) is not None:
            flow.pin_parameter(parameter, reason)
        elif flow.is_constant(source):
            flow.pin_behind(source, reason)
        elif flow.is_tensor(source):
            flow.decline(node, flow.of(source), reason)
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
