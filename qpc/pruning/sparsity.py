"""How many weights of a graph are zero, by layer and in total."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule

from qpc.layers import integer_layer
from qpc.meta import attribute
from qpc.pruning.weight_layers import LayerWeight, Scope, float_layers
from qpc.pruning.weight_masks import weight_mask
from qpc.registry import op_name


@dataclass(frozen=True)
class LayerSparsity:
    """The weight of one layer.

    zeros: weights that are exactly 0; masked: weights that a weight mask keeps at 0.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    masked: int

    @property
    def sparsity(self) -> float:
        """The fraction of weights that are zero."""
        return self.zeros / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class SparsityReport:
    """The weights of all convolution and linear layers, in graph order; prints as a table."""

    layers: tuple[LayerSparsity, ...]

    @property
    def total(self) -> LayerSparsity:
        """All layers together."""
        return LayerSparsity(
            "total",
            "",
            (),
            sum(layer.weights for layer in self.layers),
            sum(layer.zeros for layer in self.layers),
            sum(layer.masked for layer in self.layers),
        )

    def __str__(self) -> str:
        head = ("weight", "op", "shape", "weights", "zeros", "masked", "sparsity")
        rows = [head, *map(_cells, (*self.layers, self.total))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if column < 3 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join(lines)


def sparsity_report(gm: GraphModule) -> SparsityReport:
    """Count the zero weights of float and of integer layers; shared weights count once."""
    weights = dict(float_layers(gm, Scope()))
    for node in gm.graph.nodes:
        layer = integer_layer(node)
        if layer is not None and layer.weight.op == "get_attr":
            name = str(layer.weight.target)
            weights[node] = LayerWeight(node, name, layer.output_axis, layer.groups)
    rows = (weights.get(node) for node in gm.graph.nodes)
    return SparsityReport(tuple(_count(gm, row) for row in rows if isinstance(row, LayerWeight)))


def _count(gm: GraphModule, layer: LayerWeight) -> LayerSparsity:
    weight, keep = attribute(gm, layer.name), weight_mask(gm, layer.name)
    return LayerSparsity(
        layer.name,
        op_name(layer.node),
        tuple(weight.shape),
        weight.numel(),
        int((weight == 0).sum()),
        0 if keep is None else int((~keep).sum()),
    )


def _cells(row: LayerSparsity) -> tuple[str, ...]:
    counts = (f"{row.weights}", f"{row.zeros}", f"{row.masked}", f"{row.sparsity:.1%}")
    return (row.name, row.op, "x".join(map(str, row.shape)), *counts)
