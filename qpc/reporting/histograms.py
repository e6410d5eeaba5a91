"""How weights and activations lie on their grids."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.analysis.layer_scales import weight_scales
from qpc.batches import Batch, inputs_of
from qpc.explanation.float_runs import watched
from qpc.layers import any_layer, integer_layer
from qpc.meta import attribute, info, value_name
from qpc.quant.grid import QParams
from qpc.reporting.data import Histogram

_BINS = 48
_END = 1 - 1e-6
"""Stored weights at this share of their end are at the end: scales are found by a division."""


def histograms(
    reference: GraphModule,
    gm: GraphModule,
    batches: Sequence[Batch],
    spans: Mapping[str, tuple[float, float]],
) -> tuple[Histogram, ...]:
    """Weights of an integer graph, and the float values that its operators' results stand for.

    spans: between what these lie, by the node; others are not counted.
    """
    wanted = {}
    for node in gm.graph.nodes:
        name, grid, span = value_name(node), info(node).qparams, spans.get(node.name)
        if name is None or grid is None or span is None:
            continue
        if all(map(math.isfinite, span)):
            wanted[name] = _Counted(node, grid, span)
    return (*_weights(gm), *_activations(reference, wanted, batches))


def stored_weight(gm: GraphModule, node: Node) -> Tensor | None:
    """The weight of a layer as it is stored; None if it has none that stands in the graph."""
    view = any_layer(node)
    if view is None or str(view.weight.op) != "get_attr":
        return None
    return attribute(gm, str(view.weight.target))


# --- weights --------------------------------------------------------------------------------------


def _weights(gm: GraphModule) -> Iterator[Histogram]:
    for node in gm.graph.nodes:
        weight, scale = stored_weight(gm, node), _weight_scale(gm, node)
        if weight is None or scale is None or not weight.numel() or weight.dtype != torch.int8:
            continue
        view = any_layer(node)
        assert view is not None
        config = info(node).config
        lowest = -(1 << ((8 if config is None else config.weight.bits) - 1))
        if scale.numel() not in (1, weight.shape[view.output_axis]):
            continue
        shape = [1] * weight.dim()
        shape[view.output_axis] = -1
        reals = weight.to(torch.float32) * scale.reshape(shape)
        widths = (float(scale.min()), float(scale.max()))
        ends = {lowest * w for w in widths} | {(-lowest - 1) * w for w in widths}
        at_end = (weight <= lowest) | (weight >= -lowest - 1)
        low, high = min(ends), max(ends)
        counts = torch.histc(reals, _BINS, low, high).int().tolist()
        share = float(at_end.float().mean())
        clips = tuple(sorted(ends))
        yield Histogram(
            node=node.name, of="weights", low=low, high=high, counts=tuple(counts), clips=clips,
            outside=share,
        )  # fmt: skip


def _weight_scale(gm: GraphModule, node: Node) -> Tensor | None:
    """The scale of each output channel's weights, from what sums are multiplied with."""
    view = integer_layer(node)
    if view is None or view.multiplier.op != "get_attr":
        return None
    multiplier = attribute(gm, str(view.multiplier.target))
    return weight_scales(node, multiplier) if bool((multiplier > 0).all()) else None


# --- activations ----------------------------------------------------------------------------------


class _Counted:
    """How many float values of an operator lie where."""

    def __init__(self, node: Node, grid: QParams, span: tuple[float, float]) -> None:
        self._node, self._grid = node, grid
        low, high = grid.real_range
        self._shown = min(span[0], low), max(span[1], high)
        self._counts = torch.zeros(_BINS)
        self._beyond = self._count = 0

    def add(self, value: Tensor) -> None:
        """Some more of them."""
        self._counts += torch.histc(value.float(), _BINS, *self._shown)
        low, high = self._grid.real_range
        half = self._grid.scale / 2
        self._beyond += int(((value < low - half) | (value > high + half)).sum())
        self._count += value.numel()

    def result(self) -> Histogram:
        """From the least to the greatest, with both ends of the grid."""
        low, high = self._shown
        return Histogram(
            node=self._node.name, of="activations", low=low, high=high,
            counts=tuple(self._counts.int().tolist()), clips=self._grid.real_range,
            outside=self._beyond / max(self._count, 1),
        )  # fmt: skip


def _activations(
    reference: GraphModule, wanted: Mapping[str, _Counted], batches: Sequence[Batch]
) -> Iterator[Histogram]:
    """Nothing is kept between batches."""

    def count(name: str, value: Tensor) -> None:
        if name in wanted and value.is_floating_point():
            wanted[name].add(value)

    with torch.no_grad():
        for number, batch in enumerate(batches):
            watched(reference, inputs_of(reference, batch, number), count)
    return (counted.result() for counted in wanted.values())
