"""Parameters and multiply-accumulates (MACs) of a core-form graph, as it is or after pruning.

Both are sums of products of sizes, and pruning only shortens axes. So a `CostModel` keeps, for
every size, the labels of the channels along that axis, and tells the cost of any pruned structure
by counting labels, without pruning anything.

MACs are those of convolutions, linear layers, matrix products and attention at batch size 1: one
for each multiplication of a weight (or of two values) that is added up. Biases, norms and
activations count as none, and positions in the padding count like any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qpc.calls import arguments
from qpc.channels.atoms import Labels, along, compact, varying_axes
from qpc.channels.groups import ChannelAnalysis
from qpc.layers import IntWeighted, Weighted, any_layer
from qpc.meta import attribute
from qpc.registry import Through, op_name, seen_through, spec_of
from qpc.shapes import concrete_shapes
from qpc.types import TensorType

Measure = Literal["channels", "parameters", "macs"]
"""What can be counted: output channels of all layers, parameters, or MACs."""


@dataclass(frozen=True)
class LayerCost:
    """One operator that has parameters or multiplies.

    layer: the path of the module that owns its weight, or the node's name; channels: output
    channels, 0 if it has no weight that makes any. node: the name of the node.
    """

    layer: str
    op: str
    channels: int
    parameters: int
    macs: int
    node: str = field(default="", compare=False)


@dataclass(frozen=True)
class Cost:
    """The cost of a graph: by layer, and in total with shared parameters counted once."""

    layers: tuple[LayerCost, ...]
    channels: int
    parameters: int
    macs: int

    def of(self, measure: Measure) -> int:
        """One of the totals by its name."""
        totals = {"channels": self.channels, "parameters": self.parameters, "macs": self.macs}
        return totals[measure]

    def __str__(self) -> str:
        lines = [f"{'layer':40} {'operator':16} {'channels':>9} {'parameters':>12} {'MACs':>15}"]
        total = LayerCost("total", "", self.channels, self.parameters, self.macs)
        lines += [
            f"{c.layer:40} {c.op:16} {c.channels:9,} {c.parameters:12,} {c.macs:15,}"
            for c in (*self.layers, total)
        ]
        return "\n".join(lines)


def cost(gm: GraphModule) -> Cost:
    """The cost of a core-form graph at batch size 1."""
    return CostModel(gm).after()


def node_macs(gm: GraphModule) -> dict[Node, int]:
    """The multiply-accumulates of each call that has any, at batch size 1."""
    nothing_removed = torch.ones(1, dtype=torch.bool)
    found = {
        node: sum(product.at(nothing_removed) for product in layer.macs)
        for node, layer in _layers(gm, Sizes(gm, None))
    }
    return {node: macs for node, macs in found.items() if macs}


class CostModel:
    """The cost of a graph as a function of the units that are removed."""

    def __init__(self, gm: GraphModule, analysis: ChannelAnalysis | None = None) -> None:
        self._atoms = 0 if analysis is None else len(analysis.atoms)
        sizes = Sizes(gm, analysis)
        self._layers = tuple(layer for _, layer in _layers(gm, sizes))
        self._tensors = {
            key: _Product.of(sizes.parameter(node)) for key, node in _counted(gm).items()
        }
        self._outputs = {key: line for layer in self._layers for key, line in layer.outputs.items()}

    def after(self, removed: Iterable[int] = ()) -> Cost:
        """The cost without the units `removed`."""
        kept = self._kept(removed)
        layers = [
            LayerCost(
                layer.name,
                layer.op,
                sum(line.at(kept) for line in layer.outputs.values()),
                sum(product.at(kept) for product in layer.parameters),
                sum(product.at(kept) for product in layer.macs),
                layer.node,
            )
            for layer in self._layers
        ]
        return Cost(
            tuple(layers),
            self._channels(kept),
            self._parameters(kept),
            sum(layer.macs for layer in layers),
        )

    def total(self, measure: Measure, removed: Iterable[int] = ()) -> int:
        """One total without the units `removed`; faster than all of `after`."""
        kept = self._kept(removed)
        if measure == "macs":
            return sum(product.at(kept) for layer in self._layers for product in layer.macs)
        return self._channels(kept) if measure == "channels" else self._parameters(kept)

    def _channels(self, kept: Tensor) -> int:
        return sum(line.at(kept) for line in self._outputs.values())

    def _parameters(self, kept: Tensor) -> int:
        return sum(product.at(kept) for product in self._tensors.values())

    def _kept(self, removed: Iterable[int]) -> Tensor:
        """For each atom, and for NONE at the end, whether it stays."""
        kept = torch.ones(self._atoms + 1, dtype=torch.bool)
        kept[torch.tensor(sorted(removed), dtype=torch.int64)] = False
        return kept


# --- sizes that depend on what is removed ---------------------------------------------------------

Line: TypeAlias = int | Labels
"""A size that is fixed, or the channels along an axis."""
Products: TypeAlias = Sequence[Sequence[Line]]
"""Products of sizes, to be added up."""


@dataclass(frozen=True)
class _Product:
    """A constant times the numbers of channels kept along some axes."""

    constant: int = 1
    lines: tuple[Labels, ...] = ()

    @staticmethod
    def of(sizes: Iterable[Line]) -> _Product:
        known = list(sizes)
        fixed = math.prod(s for s in known if isinstance(s, int))
        return _Product(fixed, tuple(s for s in known if not isinstance(s, int)))

    def at(self, kept: Tensor) -> int:
        return self.constant * math.prod(int(kept[line].sum()) for line in self.lines)


class Sizes:
    """The sizes of values and parameters, along each axis."""

    def __init__(self, gm: GraphModule, analysis: ChannelAnalysis | None) -> None:
        self._gm, self._types = gm, concrete_shapes(gm, 1)
        self._values = {} if analysis is None else analysis.values
        self._axes = {
            (id(attribute(gm, axis.name)), axis.axis): axis.labels
            for axis in (() if analysis is None else analysis.axes)
        }

    def shape(self, node: Node) -> tuple[int, ...]:
        """Those of a value before pruning, at batch size 1."""
        found = self._types[node]
        return found.shape if isinstance(found, TensorType) else ()

    def value(self, node: Node) -> list[Line]:
        """Those of a value, along each axis."""
        if matrix := self._matrix(node):
            return matrix
        sizes: list[Line] = list(self.shape(node))
        for labels in map(compact, self._values.get(node, ())):
            for axis in varying_axes(labels):
                sizes[axis] = along(labels, axis)
        return sizes

    def parameter(self, node: Node) -> list[Line]:
        """Those of the tensor that a `get_attr` node names."""
        tensor = _tensor(self._gm, node)
        return [self._axes.get((id(tensor), axis), size) for axis, size in enumerate(tensor.shape)]

    def _matrix(self, node: Node) -> list[Line] | None:
        """The sizes of a parameter that is read through its quantization or a permutation."""
        if node.op == "get_attr":
            return self.parameter(node)
        if not _is_seen_through(node):
            return None
        inner = self._matrix(node.all_input_nodes[0])
        if inner is None or seen_through(node) is not Through.PERMUTED:
            return inner
        return [inner[axis] for axis in arguments(node)["dims"]]


# --- operators ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """A `LayerCost` whose numbers are not known yet.

    outputs: the number of channels that its weight makes, by the weight's identity.
    """

    name: str
    op: str
    node: str
    macs: tuple[_Product, ...]
    parameters: tuple[_Product, ...]
    outputs: dict[int, _Product] = field(default_factory=dict)


def _layers(gm: GraphModule, sizes: Sizes) -> Iterator[tuple[Node, _Layer]]:
    counted = _counted(gm)
    for node in gm.graph.nodes:
        if node.op != "call_function" or _is_seen_through(node):
            continue
        sources = [found for n in node.all_input_nodes if (found := source_parameter(n))]
        owned = [source for source in sources if id(_tensor(gm, source)) in counted]
        parameters = tuple(_Product.of(sizes.parameter(source)) for source in owned)
        if view := any_layer(node):
            yield node, _weighted(gm, view, sizes, parameters)
        elif (macs := _macs(node, sizes)) or owned:
            name = _owner(owned[0]) if owned else node.name
            yield node, _Layer(name, op_name(node), node.name, macs, parameters)


def _weighted(
    gm: GraphModule, view: Weighted | IntWeighted, sizes: Sizes, parameters: tuple[_Product, ...]
) -> _Layer:
    """Every element of the weight is used once at every position of the output.

    A transposed convolution uses it once at every position of its input.
    """
    axis = view.channel_axis
    positions = sizes.value(view.input if view.transposed else view.node)
    del positions[axis]
    macs = (_Product.of([*positions, *sizes.value(view.weight)]),)
    outputs = _Product.of([sizes.value(view.node)[axis]])
    found = source_parameter(view.weight)
    name = view.node.name if found is None else _owner(found)
    key = id(view.node if found is None else _tensor(gm, found))
    return _Layer(name, op_name(view.node), view.node.name, macs, parameters, {key: outputs})


def _macs(node: Node, sizes: Sizes) -> tuple[_Product, ...]:
    """Those of a call that is no layer."""
    spec = spec_of(node)
    if spec is None or spec.macs is None:
        return ()
    return tuple(_Product.of(product) for product in spec.macs(sizes, node))


def _is_seen_through(node: Node) -> bool:
    return seen_through(node) in (Through.WHOLE, Through.PERMUTED)


def source_parameter(node: Node) -> Node | None:
    """The `get_attr` node behind a weight; None if the weight is computed."""
    while _is_seen_through(node):
        node = node.all_input_nodes[0]
    return node if node.op == "get_attr" else None


def _counted(gm: GraphModule) -> dict[int, Node]:
    """What counts as parameters: those of torch, and the integer weights of layers, each once."""
    found: dict[int, Node] = {}
    for node in gm.graph.nodes:
        if node.op == "get_attr" and isinstance(_tensor(gm, node), nn.Parameter):
            found[id(_tensor(gm, node))] = node
        elif view := any_layer(node):
            for part in (view.weight, view.bias):
                if part is not None and (source := source_parameter(part)):
                    found[id(_tensor(gm, source))] = source
    return found


def _tensor(gm: GraphModule, node: Node) -> Tensor:
    return attribute(gm, str(node.target))


def _owner(parameter: Node) -> str:
    """The path of the module that owns a parameter, or its own name at the top level."""
    name = str(parameter.target)
    return name.rpartition(".")[0] or name
