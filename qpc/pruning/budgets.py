"""The numbers of units by a rule alone, so that a share of the model goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from qpc.pruning.scored_groups import ScoredGroup

Gone = Callable[[Sequence[int]], float]
"""The share of the model that has gone once each group has lost so many units."""


class Rule(Protocol):
    """What is asked of an allocation."""

    def wanted(self, groups: Sequence[ScoredGroup], share: float) -> list[int]:
        """How many of its original units each group is to lose at a share."""

    def greatest_share(self) -> float:
        """The share at which all groups lose all they can."""

    def limited(self, scored: ScoredGroup, removed: int) -> int:
        """The greatest number of units up to `removed` that may go."""


def counts_at(rule: Rule, groups: Sequence[ScoredGroup], share: float) -> list[int]:
    """How many units each group loses at a share, within the limits."""
    wanted = rule.wanted(groups, share)
    return [
        rule.limited(scored, count - scored.gone)
        for scored, count in zip(groups, wanted, strict=True)
    ]


def units_of(groups: Sequence[ScoredGroup], counts: Sequence[int]) -> frozenset[int]:
    """The first units of each group."""
    return frozenset(
        atom for scored, count in zip(groups, counts, strict=True) for atom in scored.order[:count]
    )


@dataclass(frozen=True, eq=False)
class Budget:
    """An amount of the model, of which each group is to lose its part by a rule."""

    rule: Rule
    groups: Sequence[ScoredGroup]
    amount: float
    gone: Gone

    def counts(self) -> list[int]:
        """The numbers of units whose share of the model is nearest to the amount."""
        low, high = 0.0, self.rule.greatest_share()
        if self.gone(self._at(high)) <= self.amount:
            return self._at(high)
        while high - low > _PRECISION:
            middle = (low + high) / 2
            if self.gone(self._at(middle)) <= self.amount:
                low = middle
            else:
                high = middle
        return self._nearest(self._at(low), self._at(high))

    def _at(self, share: float) -> list[int]:
        return counts_at(self.rule, self.groups, share)

    def _nearest(self, counts: list[int], upper: list[int]) -> list[int]:
        """Go from `counts` towards `upper`, group by group, as long as that leads nearer."""
        best = abs(self.gone(counts) - self.amount)
        for place, scored in enumerate(self.groups):
            between = range(counts[place], upper[place] + 1)
            steps = {self.rule.limited(scored, count) for count in between}
            for count in sorted(steps - {counts[place]}):
                trial = [*counts[:place], count, *counts[place + 1 :]]
                error = abs(self.gone(trial) - self.amount)
                if error >= best:
                    return counts
                counts, best = trial, error
        return counts


_PRECISION = 1e-7  # of a share: finer than one unit of the largest models
