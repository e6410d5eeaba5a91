"""Which channels may be scaled: what makes them, what reads them, and what stands in between.

A channel that one layer makes s times smaller and all that read it make s times larger leaves the
model as it is, if every operator in between commutes with a positive factor: ReLU, pooling, sums of
values scaled alike, what moves values. Channels that meet in a sum get the same factor, so that
whole residual streams can be scaled. A clamp such as ReLU6 commutes as long as a channel does not
reach its bound, which only data tells. What is not known to commute keeps its channels as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from qpc.base import PassContext
from qpc.channels.atoms import (
    Atoms,
)
from qpc.errors import PassError
from qpc.layers import Weighted, outputs_first, own_layout, weighted
from qpc.meta import attribute


@dataclass(frozen=True)
class Rows:
    """Channels that a layer, or a norm with parameters for each channel, makes.

    channels: the unit of each output channel, int64[out].
    """

    node: Node
    weight: str
    bias: str | None
    channels: Tensor


@dataclass(frozen=True)
class Columns:
    """Channels that a layer reads; `channels[in]` as above."""

    node: Node
    value: Node
    axis: int
    channels: Tensor


@dataclass(frozen=True)
class Bounds:
    """A clamp between; `channels` along `axis` of the value that it reads."""

    node: Node
    value: Node
    axis: int
    channels: Tensor
    lo: float
    hi: float


@dataclass(frozen=True)
class Scaling:
    """All units of channels of a graph. A unit is a number; NONE marks channels that are fixed.

    units: how many there are. reasons: why a unit is fixed, by unit.
    """

    units: int
    made: tuple[Rows, ...]
    read: tuple[Columns, ...]
    bounds: tuple[Bounds, ...]
    reasons: dict[int, str] = field(repr=False)

    def fixed(self) -> Tensor:
        """bool[units]: which must keep their scale."""
        found = torch.zeros(self.units, dtype=torch.bool)
        found[list(self.reasons)] = True
        return found

    def declined(self) -> dict[Node, str]:
        """The makers all of whose channels are fixed, with the first reason."""
        fixed = self.fixed()
        found = {}
        for rows in self.made:
            if bool(fixed[rows.channels].all()):
                found[rows.node] = self.reasons.get(int(rows.channels[0]), "it has no channels")
        return found

    def parts(self) -> list[Scaling]:
        """The same by groups of makers whose channels meet somewhere, in the order of the graph."""
        atoms = Atoms()
        atoms.new(self.units)
        lines = [
            *(rows.channels for rows in self.made),
            *(columns.channels for columns in self.read),
            *(clamp.channels for clamp in self.bounds),
        ]
        for line in lines:
            atoms.unite(line, line[:1], "they meet")

        def group(channels: Tensor) -> int:
            return int(atoms.find(channels[:1])[0])

        keys = dict.fromkeys(group(line) for line in lines if len(line))
        return [
            replace(
                self,
                made=tuple(r for r in self.made if len(r.channels) and group(r.channels) == key),
                read=tuple(c for c in self.read if len(c.channels) and group(c.channels) == key),
                bounds=tuple(
                    b for b in self.bounds if len(b.channels) and group(b.channels) == key
                ),
            )
            for key in keys
        ]


def apply_scales(gm: GraphModule, scaling: Scaling, scales: Tensor) -> None:
    """Divide what makes each unit by its scale, and multiply what reads it; float64[units]."""
    for rows in scaling.made:
        _divide_rows(gm, rows, scales[rows.channels])
    for columns in scaling.read:
        _multiply_columns(gm, columns, scales[columns.channels])


def require_float(gm: GraphModule, what: str) -> None:
    """Raise PassError for graphs with observers or rounded values, whose grids would be wrong."""
    for node in gm.graph.nodes:
        if isinstance(node.target, OpOverload) and node.target.namespace == "qpc":
            raise PassError(
                f"{what} needs a graph in float, and this one calls {node.target}",
                node=node,
                fix="run it before InsertObservers",
            )


def report_scales(ctx: PassContext, scaling: Scaling, scales: Tensor) -> bool:
    """Record what became of each maker of channels; whether anything changed."""
    changed = 0
    for rows in scaling.made:
        found = scales[rows.channels]
        if rows.weight and bool((found != 1.0).any()):
            changed += 1
            text = f"channels divided by {float(found.min()):.3g} to {float(found.max()):.3g}"
            ctx.change(rows.node, text)
    ctx.summarize(f"{changed} of {len(scaling.made)} layers and norms have other scales")
    return changed > 0


def row_ranges(gm: GraphModule, rows: Rows) -> Tensor:
    """The largest magnitude of the weights that make each channel, float64[out]."""
    layer = weighted(rows.node)
    weight = attribute(gm, rows.weight).detach().double().abs()
    if layer is not None:
        weight = outputs_first(weight, layer.output_axis, layer.groups)
    return weight.reshape(len(weight), -1).amax(1) if weight.numel() else weight.new_zeros(0)


def column_ranges(gm: GraphModule, columns: Columns) -> Tensor:
    """The largest magnitude of the weights that each channel is multiplied with, float64[in]."""
    layer = layer_of(columns.node)
    weight = attribute(gm, str(layer.weight.target)).detach().double().abs()
    weight = outputs_first(weight, layer.output_axis, layer.groups)
    grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
    if not weight.numel():
        return weight.new_zeros(len(columns.channels))
    return grouped.transpose(1, 2).flatten(2).amax(2).reshape(-1)


def _divide_rows(gm: GraphModule, rows: Rows, scales: Tensor) -> None:
    layer = weighted(rows.node)
    axis, groups = (layer.output_axis, layer.groups) if layer is not None else (0, 1)
    _rescale(gm, rows.weight, axis, groups, lambda w: w / _column(scales, w))
    if rows.bias is not None:
        _rescale(gm, rows.bias, 0, 1, lambda b: b / scales)


def _multiply_columns(gm: GraphModule, columns: Columns, scales: Tensor) -> None:
    layer = layer_of(columns.node)
    groups = layer.groups

    def multiply(weight: Tensor) -> Tensor:
        each = scales.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1)
        factors = each.reshape(len(weight), -1)
        return weight * factors.reshape(*factors.shape, *[1] * (weight.dim() - 2))

    _rescale(gm, str(layer.weight.target), layer.output_axis, groups, multiply)


def _rescale(
    gm: GraphModule, name: str, axis: int, groups: int, change: Callable[[Tensor], Tensor]
) -> None:
    """Change a parameter in float64, seen with its outputs first."""
    parameter = attribute(gm, name)
    with torch.no_grad():
        changed = change(outputs_first(parameter.detach().double(), axis, groups))
        parameter.copy_(own_layout(changed, axis, groups))


def _column(scales: Tensor, weight: Tensor) -> Tensor:
    return scales.reshape(-1, *[1] * (weight.dim() - 1))


def layer_of(node: Node) -> Weighted:
    """The view of a node that is known to be a layer."""
    layer = weighted(node)
    assert layer is not None
    return layer
