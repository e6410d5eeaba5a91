"""How weights and activations lie on their grids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qpc.analysis.layer_scales import weight_scales
from qpc.batches import Batch, inputs_of
from qpc.layers import any_layer, integer_layer
from qpc.meta import attribute, info, value_name
from qpc.quant.grid import QParams
from qpc.reporting.data import Histogram

_BINS = 48
_END = 1 - 1e-6
"""Stored weights at this share of their end are at the end: scales are found by a division."""


def histograms(
    reference: GraphModule, gm: GraphModule, batches: Sequence[Batch]
) -> tuple[Histogram, ...]:
    """Weights of an integer graph, and the float values that its operators' results stand for."""
    wanted = {
        name: (node.name, grid)
        for node in gm.graph.nodes
        if node.op == "call_function"
        and (name := value_name(node)) is not None
        and (grid := info(node).qparams) is not None
    }
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


class _Watcher(Interpreter):
    def __init__(self, gm: GraphModule, see: Callable[[str, Tensor], None]) -> None:
        super().__init__(gm)
        self._see = see
        self._last = {n: node for node in gm.graph.nodes if (n := value_name(node)) is not None}

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        name = value_name(n)
        if isinstance(value, Tensor) and name is not None and self._last.get(name) is n:
            self._see(name, value)
        return value


def _activations(
    reference: GraphModule, wanted: Mapping[str, tuple[str, QParams]], batches: Sequence[Batch]
) -> Iterator[Histogram]:
    """First where the values lie, then how many lie where: nothing is kept between batches."""
    ranges: dict[str, tuple[float, float]] = {}
    counts: dict[str, Tensor] = {}
    outside: dict[str, list[int]] = {}

    def span(name: str, value: Tensor) -> None:
        if name in wanted and value.is_floating_point() and value.numel():
            low, high = (float(v) for v in value.aminmax())
            before = ranges.get(name, (low, high))
            ranges[name] = min(before[0], low), max(before[1], high)

    def count(name: str, value: Tensor) -> None:
        if name not in ranges or not all(map(math.isfinite, ranges[name])):
            return
        grid = wanted[name][1]
        found = torch.histc(value.float(), _BINS, *_shown(ranges[name], grid))
        counts[name] = counts.get(name, torch.zeros(_BINS)) + found
        low, high = grid.real_range
        half = grid.scale / 2
        beyond = int(((value < low - half) | (value > high + half)).sum())
        seen = outside.setdefault(name, [0, 0])
        seen[0], seen[1] = seen[0] + beyond, seen[1] + value.numel()

    with torch.no_grad():
        for see in (span, count):
            for number, batch in enumerate(batches):
                _Watcher(reference, see).run(*inputs_of(reference, batch, number))
    for name, found in counts.items():
        node, grid = wanted[name]
        low, high = _shown(ranges[name], grid)
        beyond, all_ = outside[name]
        yield Histogram(
            node=node, of="activations", low=low, high=high, counts=tuple(found.int().tolist()),
            clips=grid.real_range, outside=beyond / all_,
        )  # fmt: skip


def _shown(values: tuple[float, float], grid: QParams) -> tuple[float, float]:
    """From which value to which: all values, and both ends of the grid."""
    low, high = grid.real_range
    return min(values[0], low), max(values[1], high)
