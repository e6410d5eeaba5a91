"""The walk through a graph that finds which channels may be scaled; see `qpc.channels.scaling`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qpc.calls import arguments, aten
from qpc.channels.atoms import (
    NONE,
    Atoms,
    Labels,
    along,
    compact,
    nothing,
    spread,
    varying_axes,
)
from qpc.channels.scaling import Bounds, Columns, Rows, Scaling, layer_of
from qpc.edit import reads
from qpc.layers import Weighted, weighted
from qpc.meta import info, label
from qpc.registry import Role, op_name, role_of
from qpc.types import resolve


def scaling_of(gm: GraphModule) -> Scaling:
    """Find the units of a float graph in core form."""
    return _Walk(gm).run()


_COMMUTING = frozenset({aten.relu.default, aten.leaky_relu.default, aten.neg.default})
_WINDOWS = frozenset(
    {
        *(aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default),
        *(aten.max_pool1d.default, aten.avg_pool1d.default, aten.adaptive_avg_pool1d.default),
        *(aten.adaptive_max_pool2d.default, aten.max_pool3d.default, aten.avg_pool3d.default),
        *(aten.upsample_nearest2d.default, aten._upsample_nearest_exact2d.default),
        *(aten.upsample_bilinear2d.default, aten.constant_pad_nd.default, aten.pad.default),
    }
)
_REDUCTIONS = frozenset({aten.mean.dim, aten.sum.dim_IntList, aten.amax.default})
_SUMS = frozenset({aten.add.Tensor, aten.sub.Tensor})
_PRODUCTS = frozenset({aten.mul.Tensor, aten.div.Tensor})
_NORMS = {aten.layer_norm.default: -1, aten.rms_norm.default: -1, aten.group_norm.default: 1}


class _Walk:
    """One walk through a graph; `_labels[node]` are the units of a value with a batch of one."""

    def __init__(self, gm: GraphModule) -> None:
        self._gm, self._atoms = gm, Atoms()
        self._labels: dict[Node, Labels] = {}
        self._made: list[Rows] = []
        self._read: list[Columns] = []
        self._bounds: list[Bounds] = []

    def run(self) -> Scaling:
        for node in self._gm.graph.nodes:
            if node.op == "output":
                for value in node.all_input_nodes:
                    self._pin(value, "the model returns it")
            elif node.op != "get_attr" and info(node).dtype is not None:
                self._labels[node] = compact(self._label(node))
            elif node.op == "call_function":
                for value in node.all_input_nodes:
                    self._pin(value, f"{op_name(node)} reads it")
        return self._result()

    def _label(self, node: Node) -> Labels:
        if node.op == "placeholder":
            return nothing(self._shape(node))
        if weighted(node) is not None:
            return self._layer(node)
        if node.target in _NORMS:
            return self._norm(node, _NORMS[node.target])
        source = self._source(node)
        if source is not None:
            if node.target in _COMMUTING:
                return self._labels[source]
            if node.target is aten.prelu.default:
                return self._labels[source]
            if node.target is aten.clamp.default:
                return self._clamp(node, source)
            if node.target in _WINDOWS:
                return self._window(node, source)
            if node.target in _REDUCTIONS:
                return self._reduce(node, source)
        if node.target in _SUMS:
            return self._sum(node)
        if node.target in _PRODUCTS:
            return self._product(node)
        moves = role_of(node) is Role.MOVE or node.target is aten.cat.default
        if moves and all(n in self._labels for n in node.all_input_nodes if n.op != "get_attr"):
            return self._move(node)
        return self._stop(node, f"{op_name(node)} does not commute with scales")

    # --- operators ------------------------------------------------------------------------------

    def _layer(self, node: Node) -> Labels:
        layer = layer_of(node)
        shape = self._shape(node)
        axis = layer.channel_axis % len(shape)
        if (why := self._refusal(layer)) is not None:
            self._made_fixed(node, layer, shape[axis], why)
            return self._stop(node, why)
        line = self._line(layer.input, layer.channel_axis)
        if line is None:
            self._pin(layer.input, f"{label(node)} reads channels on another axis")
        else:
            self._read.append(Columns(node, layer.input, layer.channel_axis, line))
        made = self._atoms.new(shape[axis])
        bias = None if layer.bias is None else str(layer.bias.target)
        self._made.append(Rows(node, str(layer.weight.target), bias, made))
        return spread(made, axis, shape)

    def _refusal(self, layer: Weighted) -> str | None:
        for part in (layer.weight, layer.bias):
            if part is None:
                continue
            if part.op != "get_attr":
                return f"{part.name} is computed"
            if reads(self._gm, part) > 1:
                return f"{part.target!r} is shared"
        return None if layer.input in self._labels else "its input is a parameter"

    def _made_fixed(self, node: Node, layer: Weighted, count: int, why: str) -> None:
        """Note a layer that may not be scaled, for the report."""
        made = self._atoms.new(count)
        self._atoms.pin(made, why)
        self._made.append(Rows(node, "", None, made))

    def _norm(self, node: Node, axis: int) -> Labels:
        given = arguments(node)
        weight, bias = given.get("weight"), given.get("bias")
        shape = self._shape(node)
        own = all(
            part is None or (part.op == "get_attr" and reads(self._gm, part) == 1)
            for part in (weight, bias)
        )
        if weight is None or not own or info(weight).shape != (shape[axis],):
            return self._stop(node, f"{op_name(node)} does not commute with scales")
        for value in node.all_input_nodes:
            self._pin(value, f"{op_name(node)} does not commute with scales")
        made = self._atoms.new(shape[axis])
        name = None if bias is None else str(bias.target)
        self._made.append(Rows(node, str(weight.target), name, made))
        return spread(made, axis, shape)

    def _clamp(self, node: Node, source: Node) -> Labels:
        given = arguments(node)
        if any(isinstance(given[end], Node) for end in ("min", "max")):
            return self._stop(node, "its bounds are computed")
        lo = -torch.inf if given["min"] is None else float(given["min"])
        hi = torch.inf if given["max"] is None else float(given["max"])
        if lo > 0.0 or hi < 0.0:
            return self._stop(node, "it clamps to a range without 0")
        axes = varying_axes(self._labels[source])
        if (lo == 0.0 or lo == -torch.inf) and hi == torch.inf:
            return self._labels[source]
        if len(axes) > 1:
            return self._stop(node, "it clamps channels that lie along several axes")
        if axes:
            line = along(self._labels[source], axes[0])
            self._bounds.append(Bounds(node, source, axes[0], line, lo, hi))
        return self._labels[source]

    def _window(self, node: Node, source: Node) -> Labels:
        given, shape = arguments(node), self._shape(node)
        line = self._line(source, 1)
        if line is None or shape[1] != len(line):
            return self._stop(node, f"{op_name(node)} works across channels")
        if node.target in (aten.constant_pad_nd.default, aten.pad.default) and given.get("value"):
            return self._stop(node, "it pads with a number other than 0")
        return spread(line, 1, shape)

    def _reduce(self, node: Node, source: Node) -> Labels:
        labels, given = self._labels[source], arguments(node)
        axes = given["dim"]
        axes = [axes] if isinstance(axes, int) else list(axes or range(labels.dim()))
        axes = [axis % labels.dim() for axis in axes]
        if set(axes) & set(varying_axes(labels)):
            return self._stop(node, f"{op_name(node)} works across channels")
        for axis in sorted(axes, reverse=True):
            labels = labels.narrow(axis, 0, 1) if given["keepdim"] else labels.select(axis, 0)
        return labels

    def _sum(self, node: Node) -> Labels:
        a, b = (arguments(node)[name] for name in ("self", "other"))
        if not (isinstance(a, Node) and isinstance(b, Node)) or not self._known(a, b):
            return self._stop(node, "it adds a constant")
        shape = self._shape(node)
        first, second = self._labels[a].expand(shape), self._labels[b].expand(shape)
        self._atoms.unite(first, second, f"{label(node)} adds a value that is fixed")
        return first

    def _product(self, node: Node) -> Labels:
        """The larger factor may be scaled, and the other, a gate or a constant, may not."""
        a, b = (arguments(node)[name] for name in ("self", "other"))
        shape = self._shape(node)
        for value, other in ((a, b), (b, a)):
            divides = node.target is aten.div.Tensor and value is b
            if not isinstance(value, Node) or value not in self._labels or divides:
                continue
            if self._shape(value) == shape and value is not other:
                if isinstance(other, Node):
                    self._pin(other, f"{label(node)} multiplies by it")
                return self._labels[value]
        return self._stop(node, f"{op_name(node)} does not commute with scales")

    def _move(self, node: Node) -> Labels:
        """Run the operator on the labels."""
        if any(n.op == "get_attr" for n in node.all_input_nodes):
            return self._stop(node, "it moves a parameter")
        shape = self._shape(node)
        if node.target is aten.reshape.default:
            return self._labels[node.all_input_nodes[0]].reshape(shape)
        if node.target is aten.dropout.default:
            return self._labels[node.all_input_nodes[0]]
        known: Any = self._labels.__getitem__
        made = node.target(*map_arg(node.args, known), **map_arg(node.kwargs, known))  # type: ignore[operator]  # it is an overload
        assert isinstance(made, Tensor)
        if tuple(made.shape) != shape:
            return self._stop(node, f"{op_name(node)} depends on the batch")
        return made

    # --- labels ---------------------------------------------------------------------------------

    def _stop(self, node: Node, why: str) -> Labels:
        for value in node.all_input_nodes:
            self._pin(value, f"{label(node)}: {why}")
        return nothing(self._shape(node))

    def _pin(self, value: Node, why: str) -> None:
        if value in self._labels:
            self._atoms.pin(self._labels[value], why)

    def _known(self, *values: Node) -> bool:
        return all(value in self._labels for value in values)

    def _source(self, node: Node) -> Node | None:
        """The only value that a call reads besides parameters, if its units are known."""
        values = [n for n in node.all_input_nodes if n.op != "get_attr"]
        return values[0] if len(values) == 1 and self._known(*values) else None

    def _line(self, value: Node, axis: int) -> Tensor | None:
        """The units along an axis; None if they change along another one."""
        labels = self._labels[value]
        if set(varying_axes(labels)) - {axis % labels.dim()}:
            return None
        return along(labels, axis)

    def _shape(self, node: Node) -> tuple[int, ...]:
        shape = info(node).shape
        assert shape is not None
        return tuple(resolve(shape, 1))

    def _result(self) -> Scaling:
        """Units numbered from 0 on, without gaps; one is kept for all that are fixed from afar."""
        pins = self._atoms.pins()
        count = len(self._atoms)
        find = self._atoms.find
        far = count  # what has no unit at all is fixed

        def renamed(channels: Tensor) -> Tensor:
            roots = find(channels)
            return torch.where(roots == NONE, far, roots)

        made = tuple(Rows(r.node, r.weight, r.bias, renamed(r.channels)) for r in self._made)
        read = tuple(Columns(c.node, c.value, c.axis, renamed(c.channels)) for c in self._read)
        bounds = tuple(
            Bounds(b.node, b.value, b.axis, renamed(b.channels), b.lo, b.hi) for b in self._bounds
        )
        reasons = {**pins, far: "it is made by no layer"}
        return Scaling(count + 1, made, read, bounds, reasons)
