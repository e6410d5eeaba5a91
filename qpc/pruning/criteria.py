"""What channels are worth: the protocol of pruning criteria, and what they share.

A criterion gives every prunable unit of a group a score; units of low score go first. Nothing else
is asked of it, so any object with a `scores` method will do (`Judge`). Most criteria judge single
channels of single parameters: they derive from `ParameterCriterion`, which joins the scores of the
channels that make up a unit and brings the scores of a group to a common scale.

    @dataclass(frozen=True)
    class LargestWeight(ParameterCriterion):
        \"\"\"The largest magnitude among a channel's weights.\"\"\"

        def channel_scores(self, gm: GraphModule, axis: ParameterAxis) -> Tensor:
            return rows(gm, axis).abs().amax(1)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.channels.atoms import Labels
from qpc.channels.flow import ParameterAxis
from qpc.channels.groups import ChannelAnalysis, Group
from qpc.errors import CalibrationError
from qpc.families import Family
from qpc.meta import attribute
from qpc.settings import require_choice

Aggregation = Literal["mean", "sum", "max", "first"]
"""How the scores of a unit's channels become the score of the unit."""
Normalization = Literal["none", "mean", "max", "sum", "standardize"]
"""What the scores of a group are divided by; "standardize" gives mean 0 and deviation 1."""
Role = Literal["producing", "consuming", "both"]
"""Which weights to look at: those that make the channels, those that read them."""

UNKNOWN = math.nan
"""The score of a unit that a criterion cannot judge. It is never pruned."""


@runtime_checkable
class Judge(Protocol):
    """All that is asked of a criterion."""

    def scores(self, gm: GraphModule, analysis: ChannelAnalysis, group: Group) -> Tensor:
        """Float64, one score for each of `group.prunable`, or `UNKNOWN`."""


CRITERIA = Family("criterion", Judge, group="qpc.criteria")
"""Criteria by name."""


class Criterion(ABC):
    """Scores of units; the lower, the less a unit is worth."""

    @abstractmethod
    def scores(self, gm: GraphModule, analysis: ChannelAnalysis, group: Group) -> Tensor:
        """Float64, one score for each of `group.prunable`, or `UNKNOWN`."""

    def prepared(self, gm: GraphModule, analysis: ChannelAnalysis) -> Judge:
        """A criterion with the same scores that has done the work which all groups share.

        Criteria that run data through the graph do so here, once for all groups.
        """
        return self


@dataclass(frozen=True)
class Joining(Criterion):
    """How channel scores become unit scores.

    aggregate: over the channels of a unit; "first" takes the first in the order of the graph.
    normalize: over the units of a group, so that groups can be compared; no matter within a group.
    """

    aggregate: Aggregation = "mean"
    normalize: Normalization = "none"

    def __post_init__(self) -> None:
        require_choice("aggregate", self.aggregate, _AGGREGATIONS)
        require_choice("normalize", self.normalize, _NORMALIZATIONS)

    def join(self, group: Group, members: Iterable[tuple[Labels, Tensor]]) -> Tensor:
        """One score for each prunable unit, from labels and scores of single channels."""
        units = [unit.atom for unit in group.prunable]
        pairs = [(labels.flatten(), scores.double().flatten()) for labels, scores in members]
        if not pairs or not units:
            return torch.full((len(units),), UNKNOWN, dtype=torch.float64)
        labels = torch.cat([pair[0] for pair in pairs])
        scores = torch.cat([pair[1] for pair in pairs])
        return normalized(aggregated(units, labels, scores, self.aggregate), self.normalize)


@dataclass(frozen=True)
class OfWeights(Joining):
    """A criterion that judges the channels of weights.

    role: whether weights that make a unit's channels are looked at, those that read them, or both.
    """

    role: Role = "producing"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("role", self.role, _ROLES)

    def axes(self, analysis: ChannelAnalysis) -> list[ParameterAxis]:
        """The axes of weights to look at, in the order of the graph."""
        weights = {axis.name for axis in analysis.axes if axis.produces}
        return [
            axis
            for axis in analysis.axes
            if axis.name in weights
            and self.role in ("both", "producing" if axis.produces else "consuming")
        ]


@dataclass(frozen=True)
class ParameterCriterion(OfWeights):
    """A criterion that judges channels by nothing but their weights, one axis at a time."""

    @abstractmethod
    def channel_scores(self, gm: GraphModule, axis: ParameterAxis) -> Tensor:
        """One score for each channel along the axis."""

    def scores(self, gm: GraphModule, analysis: ChannelAnalysis, group: Group) -> Tensor:
        axes = {(axis.name, axis.axis): axis for axis in self.axes(analysis)}
        members = []
        for piece in group.slices:
            if axis := axes.get((piece.name, piece.axis)):
                found = self.channel_scores(gm, axis)
                span = slice(piece.start, piece.stop)
                members.append((axis.labels[span], found[span]))
        return self.join(group, members)


@dataclass(frozen=True)
class Measured(Joining):
    """Channel scores that are known: labels and scores, for each axis measured."""

    found: tuple[tuple[Labels, Tensor], ...] = field(default=(), repr=False)

    def scores(self, gm: GraphModule, analysis: ChannelAnalysis, group: Group) -> Tensor:
        return self.join(group, self.found)


def require_batches(count: int) -> None:
    """Raise CalibrationError if there were no batches."""
    if count == 0:
        raise CalibrationError(
            "there are no batches to judge channels by",
            fix="pass a list; a generator that was used up is empty",
        )


def rows(gm: GraphModule, axis: ParameterAxis, tensor: Tensor | None = None) -> Tensor:
    """A parameter, or a tensor of its shape, as float64 [channel of the axis, everything else]."""
    value = attribute(gm, axis.name) if tensor is None else tensor
    return value.detach().double().movedim(axis.axis, 0).flatten(1)


# --- from channels to units -----------------------------------------------------------------------

_ROLES = ("producing", "consuming", "both")
_AGGREGATIONS = ("mean", "sum", "max", "first")
_NORMALIZATIONS = ("none", "mean", "max", "sum", "standardize")


def aggregated(units: list[int], labels: Labels, scores: Tensor, how: Aggregation) -> Tensor:
    """The scores of units from those of channels, `labels[i]` being the unit of channel i.

    UNKNOWN for a unit without channels.
    """
    atoms, order = torch.tensor(units, dtype=torch.int64).sort()
    nearest = torch.searchsorted(atoms, labels).clamp(max=len(units) - 1)
    belongs = atoms[nearest] == labels
    places, scores = order[nearest[belongs]], scores[belongs]
    count = torch.bincount(places, minlength=len(units)).double()
    if how == "first":
        first: dict[int, float] = {}
        for place, score in zip(places.tolist(), scores.tolist(), strict=True):
            first.setdefault(place, score)
        result = torch.tensor([first.get(place, 0.0) for place in range(len(units))]).double()
    elif how == "max":
        result = torch.full_like(count, -math.inf).scatter_reduce_(0, places, scores, "amax")
    else:
        result = torch.zeros_like(count).index_add_(0, places, scores)
        result = result / count if how == "mean" else result
    return torch.where(count > 0, result, UNKNOWN)


def normalized(scores: Tensor, how: Normalization) -> Tensor:
    """Scores on a common scale; UNKNOWN ones do not count. What would divide by 0 divides by 1."""
    known = scores[~scores.isnan()]
    if how == "none" or not len(known):
        return scores
    if how == "standardize":
        return (scores - known.mean()) / _divisor(known.std(correction=0))
    measures: dict[str, Callable[[], Tensor]] = {
        "mean": known.mean,
        "max": known.max,
        "sum": known.sum,
    }
    return scores / _divisor(measures[how]())


def _divisor(value: Tensor) -> Tensor:
    return torch.where(value == 0, 1.0, value)
