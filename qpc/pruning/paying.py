"""Numbers of channels that pay: of those that keep to a rule, the ones a target is faster by.

A rule, such as `Global`, says in which order units go: each has the share at which it would let it
go. That is the unit's *loss*. Its *gain* is the time that its removal saves: nothing within a
vector, and much at the end of one. A group loses as many units as make gain times a price exceed
the losses most, and the price is searched for, so that the amount goes that was asked for. Where
all units gain the same these are the numbers of the rule itself.

In narrow networks that may not be enough: some layers have no number of channels that pays for its
multiplications. Then gains count by what a group's multiplications cost in time, more and more,
until the speed-up comes near the reduction of the multiplications.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from qpc.channels.cost import CostModel
from qpc.channels.times import TimeModel
from qpc.pruning.budgets import Budget, units_of
from qpc.pruning.scored_groups import ScoredGroup

Floats = npt.NDArray[np.float64]
Track = Callable[[list[Any]], Iterable[Any]]
"""The same things one by one, while progress is shown."""


@dataclass(frozen=True, eq=False)
class Curve:
    """What it costs and what it brings to take units from a group.

    counts: numbers of units, ascending from 0. loss: the shares at which the rule would let these
    units go, added up. gain: the time that is saved, in units, as if all saved the same.
    time: what is saved by the greatest of the counts.
    """

    counts: npt.NDArray[np.int64]
    loss: Floats
    gain: Floats
    time: float

    def best(self, price: float) -> int:
        """The place of the count whose gain at a price exceeds its loss most."""
        return int(np.argmin(self.loss - price * self.gain))


@dataclass(frozen=True, eq=False)
class Payer:
    """Chooses numbers of units. `start` are those of the rule itself, for the same amount."""

    budget: Budget
    costs: CostModel
    times: TimeModel
    start: Sequence[int]

    def counts(self, track: Track = iter) -> list[int]:
        """How many units each group loses; `track` shows progress.

        As much goes as was asked for, to half a per cent of the model, or as nearly as by `start`.
        """
        if not self.budget.gone(self.start) > self.budget.gone([0] * len(self.start)):
            return list(self.start)
        curves = list(self._curves(track))
        rates = self._rates(curves)
        found = []
        for tilt in _TILTS:
            places, prices = self._balanced(curves, rates**tilt)
            counts = self._adjusted(curves, self._met(curves, places, prices))
            if abs(self.budget.gone(counts) - self.budget.amount) <= self._allowed():
                found.append((self._value(counts), counts))
                if found[-1][0] >= _ENOUGH:
                    break
        found.append((self._value(self.start), list(self.start)))
        most = max(value for value, _ in found)
        return next(counts for value, counts in found if value >= most - _LITTLE)

    def _allowed(self) -> float:
        return max(_TOLERANCE, abs(self.budget.gone(self.start) - self.budget.amount))

    def _value(self, counts: Sequence[int]) -> float:
        """The speed-up over the reduction of the multiplications."""
        removed = units_of(self.budget.groups, counts)
        macs = self.costs.total("macs", removed)
        return self.times.faster(removed) * macs / max(self.costs.total("macs"), 1)

    # --- what units cost and bring ----------------------------------------------------------------

    def _curves(self, track: Track) -> Iterator[Curve]:
        """The curve of each group, where the others have lost what `start` takes."""
        everywhere = self.times.kept(units_of(self.budget.groups, self.start))
        for scored, shares in track(list(zip(self.budget.groups, self._shares(), strict=True))):
            counts = self._candidates(scored, len(shares))
            loss = np.concatenate([[0.0], np.cumsum(shares)])[counts]
            layers = self.times.touched_by(scored.order)
            kept = everywhere.copy()
            kept[list(scored.order)] = True
            times = [self.times.time(kept, layers)]
            for before, count in pairwise(counts):
                kept[list(scored.order[before:count])] = False
                times.append(self.times.time(kept, layers))
            saved = times[0] - np.array(times)
            gain = counts.astype(np.float64)
            if saved[-1] > 0:
                gain = saved / saved[-1] * counts[-1]
            yield Curve(counts, loss, gain, float(saved[-1]))

    def _shares(self) -> list[Floats]:
        """For each unit of each group, in the order in which they go, when the rule lets it go."""
        shares = np.linspace(0, self.budget.rule.greatest_share(), _SHARES)
        table = np.array(
            [self.budget.rule.wanted(self.budget.groups, float(share)) for share in shares]
        )
        found = []
        for place, scored in enumerate(self.budget.groups):
            wanted = np.maximum.accumulate(table[:, place] - scored.gone)
            most = min(max(int(wanted[-1]), 0), len(scored.order))
            found.append(shares[np.searchsorted(wanted, np.arange(1, most + 1))])
        return found

    def _candidates(self, scored: ScoredGroup, most: int) -> npt.NDArray[np.int64]:
        """Numbers of units to look at: of larger groups those that leave round numbers.

        Odd numbers of channels take longer to store than estimates say.
        """
        step = 1 if scored.units < _ROUND**2 else _ROUND
        while scored.units > _FINE * step:
            step *= 2
        rounded = (scored.units - kept for kept in range(0, scored.units, step))
        limits = {
            self.budget.rule.limited(scored, count) for count in (most, *rounded) if count <= most
        }
        return np.array(sorted({0, *limits}), dtype=np.int64)

    def _rates(self, curves: Sequence[Curve]) -> Floats:
        """How much time each group saves for its share of the model, as a multiple of the usual."""
        nothing = [0] * len(curves)
        shares, times = [], []
        for place, curve in enumerate(curves):
            taken = [*nothing[:place], int(curve.counts[-1]), *nothing[place + 1 :]]
            shares.append(self.budget.gone(taken) - self.budget.gone(nothing))
            times.append(curve.time)
        rates = np.array(times) / np.maximum(np.array(shares), _NOTHING)
        usual = sum(times) / max(sum(shares), _NOTHING)
        clipped: Floats = np.clip(rates / (usual or 1.0), 1 / _FARTHEST, _FARTHEST)
        return clipped

    # --- the amount -------------------------------------------------------------------------------

    def _balanced(self, curves: Sequence[Curve], rates: Floats) -> tuple[list[int], Floats]:
        """The places on the curves, and the prices, at which the amount is about to be passed."""

        def at(price: float) -> list[int]:
            return [c.best(price * rate) for c, rate in zip(curves, rates, strict=True)]

        low, high = 0.0, self.budget.rule.greatest_share()
        while self.budget.gone(_counts(curves, at(high))) <= self.budget.amount and high < _DEAREST:
            high *= 2
        while high - low > _PRECISION * high:
            middle = (low + high) / 2
            if self.budget.gone(_counts(curves, at(middle))) <= self.budget.amount:
                low = middle
            else:
                high = middle
        return at(low), low * rates

    def _met(self, curves: Sequence[Curve], places: list[int], prices: Floats) -> list[int]:
        """Move one or two groups at a time to other counts, until the amount is met.

        Of the moves that meet it, the one that loses least.
        """
        error = self.budget.amount - self.budget.gone(_counts(curves, places))
        for _ in range(_ROUNDS):
            if abs(error) <= _TOLERANCE:
                break
            moves = list(self._moves(curves, places, prices))
            chosen = _best_move(moves, error)
            trial = list(places)
            for move in chosen:
                trial[move.group] = move.place
            left = self.budget.amount - self.budget.gone(_counts(curves, trial))
            if abs(left) >= abs(error):
                break
            places, error = trial, left
        return places

    def _adjusted(self, curves: Sequence[Curve], places: Sequence[int]) -> list[int]:
        """The counts, one of which is moved off its curve if the amount is not met yet.

        Of the groups that can meet it, the one that changes least.
        """
        counts = _counts(curves, places)
        error = self.budget.amount - self.budget.gone(counts)
        best, least = counts, abs(error)
        if least <= _TOLERANCE:
            return counts
        departure = np.inf
        for group, (scored, curve) in enumerate(zip(self.budget.groups, curves, strict=True)):
            most = int(curve.counts[-1])
            one = [*counts[:group], min(counts[group] + 1, most), *counts[group + 1 :]]
            each = self.budget.gone(one) - (self.budget.amount - error)
            if each <= 0:
                continue
            wanted = min(max(counts[group] + round(error / each), 0), most)
            trial = [
                *counts[:group],
                self.budget.rule.limited(scored, wanted),
                *counts[group + 1 :],
            ]
            left = abs(self.budget.amount - self.budget.gone(trial))
            change = abs(trial[group] - counts[group]) / scored.units
            if left < least > _TOLERANCE or (left <= _TOLERANCE and change < departure):
                best, least, departure = trial, left, change
        return best

    def _moves(self, curves: Sequence[Curve], places: list[int], prices: Floats) -> Iterator[_Move]:
        """All groups, each to counts near its own."""
        now = self.budget.gone(_counts(curves, places))
        for group, (curve, place) in enumerate(zip(curves, places, strict=True)):
            value = curve.loss - prices[group] * curve.gain
            for other in range(max(place - _REACH, 0), min(place + _REACH + 1, len(curve.counts))):
                if other != place:
                    trial = [*places[:group], other, *places[group + 1 :]]
                    more = self.budget.gone(_counts(curves, trial)) - now
                    yield _Move(group, other, more, float(value[other] - value[place]))


@dataclass(frozen=True)
class _Move:
    """Another count for a group; more: the share of the model that goes by it."""

    group: int
    place: int
    more: float
    loss: float


def _best_move(moves: Sequence[_Move], error: float) -> list[_Move]:
    """The move, or the two of different groups, that come near enough for the least loss."""
    if not moves:
        return []
    stay = _Move(-1, -1, 0.0, 0.0)
    every = [stay, *moves]
    groups = np.array([move.group for move in every])
    more = np.array([move.more for move in every])
    loss = np.array([move.loss for move in every])
    left = np.abs(error - more[:, None] - more[None, :])
    apart = groups[:, None] != groups[None, :]
    near = apart & (left <= _TOLERANCE)
    rank = np.where(near, loss[:, None] + loss[None, :], np.inf)
    if not near.any():
        rank = np.where(apart, left, np.inf)
    first, second = np.unravel_index(int(np.argmin(rank)), rank.shape)
    return [every[int(place)] for place in (first, second) if place]


def _counts(curves: Sequence[Curve], places: Sequence[int]) -> list[int]:
    return [int(curve.counts[place]) for curve, place in zip(curves, places, strict=True)]


_TOLERANCE = 0.005  # of the model's total
_ENOUGH = 0.85  # of the reduction of the multiplications: models of costs leave some costs out
_LITTLE = 0.02  # of a speed-up is not worth a departure from the rule
_TILTS = (0.0, 0.5, 1.0, 2.0)  # how much it counts which group's multiplications cost time
_FARTHEST = 8.0  # times the usual time of a multiplication
_SHARES = 513  # at which a rule is asked: finer than the units of most groups
_ROUND = 4  # channels: the bytes that instructions take at a time
_FINE = 16  # counts of a group
_REACH = 2  # counts up and down
_ROUNDS = 4
_DEAREST = 1e4
_PRECISION = 1e-6
_NOTHING = 1e-12
