"""Criteria that look at the values in channels, on samples of the data.

Values are measured where they are read by layers that mix channels: after the norm and the
activation function, and after additions. A unit's channels are the ones it has in these values;
units that no such layer reads are not judged.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qpc.batches import Batch, inputs_of
from qpc.channels.atoms import NONE, Labels, along, compact, varying_axes
from qpc.channels.groups import ChannelAnalysis, Group
from qpc.layers import weighted
from qpc.pruning.criteria import CRITERIA, Joining, Judge, Measured, require_batches
from qpc.registry import spec_of


@dataclass(frozen=True, kw_only=True)
class ActivationCriterion(Joining):
    """A criterion that judges channels by their values.

    batches: as `Calibrate` takes them; a list, since they may be read more than once.
    """

    batches: Iterable[Batch] = field(repr=False)

    @abstractmethod
    def measure(self, values: Tensor, axis: int) -> Tensor | None:
        """The mean score of each channel along `axis` of one batch of values.

        None if values of this shape say nothing.
        """

    def prepared(self, gm: GraphModule, analysis: ChannelAnalysis) -> Judge:
        watcher = _Watcher(gm, analysis, self)
        count = 0
        with torch.no_grad():
            for count, batch in enumerate(self.batches, start=1):
                watcher.run(*inputs_of(gm, batch, count - 1))
        require_batches(count)
        return Measured(self.aggregate, self.normalize, watcher.means())

    def scores(self, gm: GraphModule, analysis: ChannelAnalysis, group: Group) -> Tensor:
        return self.prepared(gm, analysis).scores(gm, analysis, group)


@CRITERIA.named("apoz")
@dataclass(frozen=True)
class APoZ(ActivationCriterion):
    """The share of values that are not zero: 1 minus the average percentage of zeros.

    Hu et al. 2016, "Network trimming", arXiv:1607.03250.
    """

    def measure(self, values: Tensor, axis: int) -> Tensor | None:
        return _rows(values, axis).ne(0).double().mean(1)


@CRITERIA.named("mean-activation")
@dataclass(frozen=True)
class MeanActivation(ActivationCriterion):
    """The mean magnitude of a channel's values.

    Molchanov et al. 2017, arXiv:1611.06440, section 2.2, with magnitudes because not every
    activation function is a ReLU.
    """

    def measure(self, values: Tensor, axis: int) -> Tensor | None:
        return _rows(values, axis).double().abs().mean(1)


@CRITERIA.named("hrank")
@dataclass(frozen=True)
class HRank(ActivationCriterion):
    """The average rank of a channel's feature maps, as matrices[height, width].

    Values that are no feature maps are not judged. Lin et al. 2020, arXiv:2002.10179.
    """

    def measure(self, values: Tensor, axis: int) -> Tensor | None:
        if values.dim() != 4 or axis != 1:
            return None
        ranks: Tensor = torch.linalg.matrix_rank(values)
        return ranks.double().mean(0)


def _rows(values: Tensor, axis: int) -> Tensor:
    return values.movedim(axis, 0).flatten(1)


class _Watcher(Interpreter):
    """Runs batches and adds up the measurements of each value, weighted by its length."""

    def __init__(
        self, gm: GraphModule, analysis: ChannelAnalysis, criterion: ActivationCriterion
    ) -> None:
        super().__init__(gm)
        self._criterion = criterion
        self._lines = dict(_lines(gm, analysis))
        self._sums: dict[tuple[Node, int], Tensor] = {}
        self._counts: dict[tuple[Node, int], int] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        for axis, _ in self._lines.get(n, ()):
            measured = self._criterion.measure(value, axis)
            if measured is not None:
                weight = value.numel() // value.shape[axis]
                self._sums[n, axis] = self._sums.get((n, axis), 0) + measured * weight
                self._counts[n, axis] = self._counts.get((n, axis), 0) + weight
        return value

    def means(self) -> tuple[tuple[Labels, Tensor], ...]:
        return tuple(
            (labels, self._sums[node, axis] / self._counts[node, axis])
            for node, lines in self._lines.items()
            for axis, labels in lines
            if (node, axis) in self._sums
        )


def _lines(
    gm: GraphModule, analysis: ChannelAnalysis
) -> Iterable[tuple[Node, list[tuple[int, Labels]]]]:
    """The values to measure, and the labels along each axis that has channels."""
    read: dict[Node, None] = {}
    for node in gm.graph.nodes:
        layer = weighted(node)
        if layer is not None:
            read[layer.input] = None
        elif (spec := spec_of(node)) is not None and spec.batch_axes is not None:
            read.update(dict.fromkeys(node.all_input_nodes))
    for node in read:
        if node in analysis.values and node.op == "call_function":
            every = map(compact, analysis.values[node])
            lines = [(a, along(labels, a)) for labels in every for a in varying_axes(labels)]
            yield node, [(axis, line) for axis, line in lines if bool((line != NONE).any())]
