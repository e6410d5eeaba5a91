"""The time of a graph's layers as a function of the units that are removed.

Like `qpc.channels.cost`, but with the times that a target takes, which do not fall with every
channel: a part of a vector takes as long as a whole one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch.fx import GraphModule

from qpc.calls import arguments
from qpc.channels.cost import Line, Sizes
from qpc.channels.groups import ChannelAnalysis
from qpc.layers import Weighted, weighted
from qpc.targets.times import LayerShape, LayerTimes

Kept: TypeAlias = npt.NDArray[np.bool_]


class TimeModel:
    """The time of the layers of a graph, as a function of the units that are removed."""

    def __init__(self, gm: GraphModule, analysis: ChannelAnalysis, times: LayerTimes) -> None:
        self.times = times
        self._atoms = len(analysis.atoms)
        self._layers = tuple(_layers(gm, Sizes(gm, analysis)))

    def touched_by(self, units: Collection[int]) -> tuple[int, ...]:
        """The numbers of the layers that lose channels with some of these units."""
        wanted = _array(units)
        return tuple(
            number
            for number, layer in enumerate(self._layers)
            if any(np.isin(line, wanted).any() for line in layer.lines)
        )

    def kept(self, removed: Iterable[int] = ()) -> Kept:
        """What stays without the units `removed`: for each atom, and at the end for no atom."""
        kept = np.ones(self._atoms + 1, dtype=np.bool_)
        kept[_array(removed)] = False
        return kept

    def time(self, kept: Kept, layers: Iterable[int] | None = None) -> float:
        """The time of all layers, or of those with these numbers, with what stays."""
        chosen = self._layers if layers is None else [self._layers[number] for number in layers]
        return sum(self.times.time(layer.at(kept)) for layer in chosen)

    def faster(self, removed: Iterable[int]) -> float:
        """How many times as fast all layers are without the units `removed`; 1 without layers."""
        before, after = self.time(self.kept()), self.time(self.kept(removed))
        return before / after if after else 1.0


_Labels: TypeAlias = npt.NDArray[np.int64]
_Size: TypeAlias = int | _Labels


@dataclass(frozen=True, eq=False)
class _Timed:
    """A layer whose numbers of channels are not known yet.

    within: how many inputs a group has; of transposed layers, how many outputs.
    """

    shape: LayerShape
    inputs: _Size
    outputs: _Size
    within: _Size

    @property
    def lines(self) -> tuple[_Labels, ...]:
        """The labels of its channels."""
        sizes = (self.inputs, self.outputs, self.within)
        return tuple(size for size in sizes if not isinstance(size, int))

    def at(self, kept: Kept) -> LayerShape:
        """The layer with the channels that are kept."""
        inputs, outputs, within = (
            size if isinstance(size, int) else int(kept[size].sum())
            for size in (self.inputs, self.outputs, self.within)
        )
        groups = (outputs if self.shape.transposed else inputs) // max(within, 1)
        if math.gcd(inputs, outputs, groups) != groups:  # of a layer whose channels are all gone
            groups = 1
        return replace(self.shape, inputs=inputs, outputs=outputs, groups=groups)


def _layers(gm: GraphModule, sizes: Sizes) -> Iterator[_Timed]:
    for node in gm.graph.nodes:
        view = weighted(node) if node.op == "call_function" else None
        shape = None if view is None else _shape(view, sizes)
        if view is None or shape is None:
            continue
        axis = view.channel_axis
        yield _Timed(
            shape,
            _size(sizes.value(view.input)[axis]),
            _size(sizes.value(view.node)[axis]),
            _size(sizes.value(view.weight)[1]),
        )


def _shape(view: Weighted, sizes: Sizes) -> LayerShape | None:
    """What pruning does not change of a layer; None for those of more axes than images have."""
    given, shape = arguments(view.node), sizes.shape(view.input)
    kernel = sizes.shape(view.weight)[2:]
    if not kernel:  # a matrix product
        return LayerShape(0, 0, (1, math.prod(shape[:-1])))
    if len(kernel) > _IMAGE_AXES:
        return None
    axes = len(kernel)
    padding = _pair(given["padding"], axes)
    return LayerShape(
        0,
        0,
        _pair(shape[2:], axes),
        _pair(kernel, axes),
        _pair(given["stride"], axes),
        padding if axes == _IMAGE_AXES else (0, padding[1]),
        _pair(given["dilation"], axes),
        transposed=view.transposed,
    )


def _pair(numbers: int | Sequence[int], axes: int) -> tuple[int, int]:
    """Rows and columns; what has one axis has one row."""
    values = [numbers] * axes if isinstance(numbers, int) else [int(n) for n in numbers]
    first = values[0] if axes == _IMAGE_AXES else 1
    return first, values[-1]


def _size(line: Line) -> _Size:
    return line if isinstance(line, int) else np.asarray(line, dtype=np.int64)


def _array(units: Iterable[int]) -> _Labels:
    return np.fromiter(units, dtype=np.int64)


_IMAGE_AXES = 2
