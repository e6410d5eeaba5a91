"""How many channels each group loses.

A rule turns one number, the share, into a number of units for each group. Limits then keep a
minimum and round what is kept up to a multiple. The share is the amount asked for, or it is
searched for, so that a share of the model's channels, parameters or MACs goes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal, Self, TypeVar

import numpy as np

from qpc.channels.cost import CostModel, Measure
from qpc.channels.times import TimeModel
from qpc.errors import PassError
from qpc.families import Family
from qpc.meta import info
from qpc.pruning.budgets import Budget, Gone, counts_at, units_of
from qpc.pruning.paying import Payer, Track
from qpc.pruning.schedules import Step
from qpc.pruning.scored_groups import Baseline, ScoredGroup
from qpc.pruning.weight_layers import Scope
from qpc.settings import require_choice, require_count, require_kind, require_number
from qpc.targets import Target
from qpc.targets.times import NATIVE, LayerTimes, layer_times, require_target

Of = Literal["units", "channels", "parameters", "macs"]
"""What an amount is a share of: each rule's own units, or a total of the model."""


@dataclass(frozen=True)
class Choice:
    """What an allocation chose.

    removed: the units to remove; out_of_scope: the indices of groups left alone on purpose.
    reached: the share of the model's total that goes with them and with all pruning before; None
    where the amount is no share of a total.
    estimate: how much faster a target is by it, in words; None if there is no target.
    """

    removed: frozenset[int]
    out_of_scope: frozenset[int]
    reached: float | None
    estimate: str | None = None


@dataclass(frozen=True)
class Allocation(ABC):
    """A rule for the size of groups after pruning.

    amount: how much goes, from 0 to 1, together with what earlier steps have removed.
    of: what the amount is a share of. "units" hands it to the rule as it is, and the limits below
    then only keep more. With "channels" (output channels of all layers), "parameters" or "macs" it
    is a share of the whole model, and the rule's share is searched for.
    minimum: channels that every group keeps at least.
    multiple: round the channels that a group keeps up to a multiple of this, such as the lanes of
    a target's vectors; in a group that is smaller or that is cut in mid-vector already, nothing
    more than its present size is kept.
    only, skip: the layers that may lose channels, and those that may not. A group is left alone if
    any layer that makes its channels is not in `only`, or is in `skip`.
    baseline: the model that amounts are relative to, if it is not the graph itself.
    target: where a share of the model is to go, numbers of channels are chosen that make int8 code
    for this target faster, see `qpc.pruning.paying`: "native" for this machine, the name of another
    target, a `qpc.Target`, or an estimate of one's own (`qpc.targets.times.LayerTimes`). None for
    the numbers of the rule itself, on whatever target.
    """

    amount: float
    _: KW_ONLY
    of: Of = "units"
    minimum: int = 1
    multiple: int = 1
    only: Scope = field(default_factory=Scope)
    skip: tuple[Scope, ...] = ()
    baseline: Baseline | None = field(default=None, repr=False)
    target: Target | LayerTimes | str | None = NATIVE

    def __post_init__(self) -> None:
        require_number("amount", self.amount, 0, 1)
        require_choice("of", self.of, _OF)
        require_count("minimum", self.minimum)
        require_count("multiple", self.multiple)
        require_kind("only", self.only, Scope, "a Scope", fix='only=Scope(module="layer1")')
        require_kind("skip", self.skip, tuple, "a tuple of Scopes", fix=_SKIP)
        for scope in self.skip:
            require_kind("skip", scope, Scope, "a tuple of Scopes", fix=_SKIP)
        require_kind(
            "baseline", self.baseline, (Baseline, type(None)), "a Baseline", fix="Baseline.of(gm)"
        )
        if self.target is not None:
            require_target(self.target)

    @abstractmethod
    def wanted(self, groups: Sequence[ScoredGroup], share: float) -> list[int]:
        """How many of its original units each group is to lose at a share; grows with it."""

    def greatest_share(self) -> float:
        """The share at which all groups lose all they can by this rule."""
        return 1.0

    def at(self, step: Step) -> Self:
        """The same rule with the amount and the baseline of one step of a schedule."""
        return replace(self, amount=step.amount, baseline=step.baseline)

    def choose(
        self,
        groups: Sequence[ScoredGroup],
        model: CostModel,
        times: TimeModel | None = None,
        track: Track = iter,
    ) -> Choice:
        """Choose the units to remove; the models are those of the graph that the groups are of.

        times: of the target; without it all channels count alike. track: shows progress.
        """
        self._check_scopes(groups)
        inside = [scored for scored in groups if self._in_scope(scored)]
        outside = frozenset(g.group.index for g in groups if not self._in_scope(g))
        if self.of == "units":
            return Choice(units_of(inside, counts_at(self, inside, self.amount)), outside, None)
        gone = self._gone(inside, model, self.of)
        budget = Budget(self, inside, self.amount, gone)
        counts = budget.counts()
        if times is None:
            return Choice(units_of(inside, counts), outside, gone(counts))
        counts = Payer(budget, model, times, counts).counts(track)
        removed = units_of(inside, counts)
        faster = f"{times.faster(removed):.2f} times as fast, by {times.times.name}"
        return Choice(removed, outside, gone(counts), faster)

    def times(self) -> LayerTimes | None:
        """How long layers take on the target; None if all channels count alike."""
        return None if self.of == "units" or self.target is None else layer_times(self.target)

    # --- limits and scopes ------------------------------------------------------------------------

    def limited(self, scored: ScoredGroup, removed: int) -> int:
        """The greatest number of units up to `removed` that may go."""
        step = self.multiple // math.gcd(self.multiple, scored.width)
        least = max(1, -(-self.minimum // scored.width), scored.units - len(scored.order))
        kept = max(scored.units - max(removed, 0), least)
        return scored.units - min(-(-kept // step) * step, scored.units)

    def _in_scope(self, scored: ScoredGroup) -> bool:
        return all(
            self.only.selects(layer) and not any(scope.selects(layer) for scope in self.skip)
            for layer in scored.layers
        )

    def _check_scopes(self, groups: Sequence[ScoredGroup]) -> None:
        layers = [layer for scored in groups for layer in scored.layers]
        for scope in (self.only, *self.skip):
            if not any(scope.selects(layer) for layer in layers):
                raise PassError(
                    f"{scope} selects no layer that makes channels",
                    fix="see the groups of qpc.channels.groups.analyze_channels(gm)",
                )

    # --- budgets ----------------------------------------------------------------------------------

    def _gone(self, groups: Sequence[ScoredGroup], model: CostModel, measure: Measure) -> Gone:
        """The share of the model that has gone once each group has lost so many units."""
        total = self.baseline.cost.of(measure) if self.baseline else model.total(measure)
        if total == 0:
            raise PassError(
                f"the graph has no {measure}, of which {self.amount:.1%} should go",
                fix='give the amount in other terms, such as of="parameters" or of="units"',
            )
        return lambda counts: 1 - model.total(measure, units_of(groups, counts)) / total


ALLOCATIONS = Family("allocation", Allocation, group="qpc.allocations")
"""Allocations by name."""


@ALLOCATIONS.named("uniform")
@dataclass(frozen=True)
class Uniform(Allocation):
    """Every group loses the same share of its units."""

    def wanted(self, groups: Sequence[ScoredGroup], share: float) -> list[int]:
        return [_nearest(share * scored.original) for scored in groups]


@ALLOCATIONS.named("global")
@dataclass(frozen=True)
class Global(Allocation):
    """The units of lowest score go, wherever they are: one threshold for the whole model."""

    def wanted(self, groups: Sequence[ScoredGroup], share: float) -> list[int]:
        return _lowest(groups, share)


@ALLOCATIONS.named("isomorphic")
@dataclass(frozen=True)
class Isomorphic(Allocation):
    """One threshold for each set of groups of the same structure; every set loses the same share.

    Scores of different structures, such as attention and MLP, do not compare. Fang et al. 2024,
    "Isomorphic pruning for vision models", arXiv:2407.04616.
    """

    def wanted(self, groups: Sequence[ScoredGroup], share: float) -> list[int]:
        sets: dict[object, list[int]] = {}
        for place, scored in enumerate(groups):
            sets.setdefault(scored.structure, []).append(place)
        result = [0] * len(groups)
        for places in sets.values():
            counts = _lowest([groups[place] for place in places], share)
            for place, count in zip(places, counts, strict=True):
                result[place] = count
        return result


@ALLOCATIONS.named("per-layer")
@dataclass(frozen=True)
class PerLayer(Allocation):
    """Given shares by layer; the amount scales all of them.

    ratios: from a module path, or a shell pattern over module paths, to the share of units that the
    layer loses. Where several layers of a group are named the smallest counts; groups of which none
    is named stay.
    """

    amount: float = 1.0
    _: KW_ONLY
    ratios: Mapping[str, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        require_kind("ratios", self.ratios, Mapping, "a mapping from module paths to numbers")
        for name, ratio in self.ratios.items():
            require_number(f"the ratio of {name!r}", ratio, 0, 1)

    def wanted(self, groups: Sequence[ScoredGroup], share: float) -> list[int]:
        _check_names(self.ratios, groups)
        ratios = [min(_named(self.ratios, scored), default=0.0) for scored in groups]
        return [
            _nearest(min(ratio * share, 1.0) * scored.original)
            for ratio, scored in zip(ratios, groups, strict=True)
        ]

    def greatest_share(self) -> float:
        return 1 / min((ratio for ratio in self.ratios.values() if ratio > 0), default=1.0)


@ALLOCATIONS.named("counts")
@dataclass(frozen=True)
class Counts(Allocation):
    """Given numbers of channels to keep; an amount below 1 goes that part of the way.

    channels: from a module path, or a shell pattern over module paths, to the channels that the
    layer keeps. Where several layers of a group are named the greatest counts; groups of which none
    is named stay.
    """

    amount: float = 1.0
    _: KW_ONLY
    channels: Mapping[str, int]

    def __post_init__(self) -> None:
        super().__post_init__()
        require_kind("channels", self.channels, Mapping, "a mapping from module paths to numbers")
        for name, count in self.channels.items():
            require_count(f"the number of channels of {name!r}", count)

    def wanted(self, groups: Sequence[ScoredGroup], share: float) -> list[int]:
        _check_names(self.channels, groups)
        kept = [max(_named(self.channels, scored), default=None) for scored in groups]
        return [
            0 if count is None else _nearest(share * (scored.original - -(-count // scored.width)))
            for count, scored in zip(kept, groups, strict=True)
        ]


# --- helpers --------------------------------------------------------------------------------------


def _nearest(units: float) -> int:
    """A whole number of units; of two as near the smaller, so that less goes than was asked for."""
    return math.ceil(units - 0.5)


_T = TypeVar("_T")
_OF = ("units", "channels", "parameters", "macs")
_SKIP = 'skip=(Scope(module="layer1"),)'


def _lowest(groups: Sequence[ScoredGroup], share: float) -> list[int]:
    """How many units of each group are among the lowest of all, counting those gone before.

    The share is of the units of groups that can lose any.
    """
    gone = [scored.gone for scored in groups]
    total = sum(scored.original for scored in groups if scored.order or scored.gone)
    number = _nearest(share * total) - sum(gone)
    scores = np.concatenate([np.asarray(scored.scores) for scored in groups] or [np.empty(0)])
    owner = np.repeat(np.arange(len(groups)), [len(scored.scores) for scored in groups])
    lowest = owner[np.argsort(scores, kind="stable")[: max(number, 0)]]
    taken = np.bincount(lowest, minlength=len(groups))
    return [before + int(count) for before, count in zip(gone, taken, strict=True)]


def _named(table: Mapping[str, _T], scored: ScoredGroup) -> list[_T]:
    paths = [info(layer).module_path for layer in scored.layers]
    return [value for name, value in table.items() if any(_names(name, path) for path in paths)]


def _check_names(names: Iterable[str], groups: Sequence[ScoredGroup]) -> None:
    paths = [info(layer).module_path for scored in groups for layer in scored.layers]
    for name in names:
        if not any(_names(name, path) for path in paths):
            raise PassError(f"no layer in scope that makes channels is named {name!r}")


def _names(name: str, path: str) -> bool:
    return f"{path}.".startswith(f"{name}.") or fnmatchcase(path, name)
