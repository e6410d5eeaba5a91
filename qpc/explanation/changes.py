"""Which changes to a compressed model would gain most, and how much.

A change is worth the share of the loss that it takes back, from 0 to 1: of the time, or of the
harm that noise does. Harm is amplitude: noise as large as what differs between the outputs for
different samples makes them worthless, and a tenth of it, 20 dB less, turns about as many of the
answers of a classifier. A constant that all outputs have in common says nothing.

What is broken, such as a scale that is wrong, counts by what it does to the layer's own values,
if that is more: what these samples hardly show in the outputs, others may.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType

from qpc.explanation.own_errors import Errors
from qpc.explanation.result import Change, LayerExplained, decibels

_LEAST = 0.01  # of what is lost; what would gain less is not worth a word
_CLIPPED = 0.001  # share of the values outside of a grid from which on they are the cause
_REACH = 1.25  # of the end of the grid, likewise
_OFF = 0.03  # a factor this far from 1 comes from no rounding,
_OF_GAIN = 0.25  # if it makes so much of the noise: rounding to few bits changes sizes, too, a bit
_UNUSED = 0.3  # of a grid that is used: less than two of its eight bits are lost above
_FASTER = 4.0
"""By how much a float operator that moves memory is faster in integers: a quarter of the bytes."""
_FEWER = 0.25  # of the channels, as an example
_AT_A_PRICE = (
    0.5  # so much counts what pruning gains, which costs accuracy, and what more bits gain
)
_EIGHT = 8


@dataclass(frozen=True)
class Island:
    """Float operators next to each other, between integer ones.

    root: the first of them that has a reason of its own to be in float. members: their rows.
    bridges_us: microseconds of the kernels that go from integers to floats and back.
    """

    root: LayerExplained
    members: tuple[LayerExplained, ...]
    bridges_us: float

    @property
    def us(self) -> float:
        """Microseconds of all of it."""
        return sum(row.us or 0.0 for row in self.members) + self.bridges_us


def changes_of(
    layers: Sequence[LayerExplained],
    islands: Sequence[Island],
    errors: Errors,
    total_us: float | None,
    prunable: Mapping[str, bool],
    most: int = 3,
    borders: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Change, ...]:
    """The changes that would gain most, the best first.

    layers: all rows. errors: of the outputs. total_us: of a call, if it is known. prunable: whether
    the channels that a layer makes may go, by the layer's node. borders: what can be done about the
    rounding of values that are in float before, by the node that rounds them.
    """
    found = [*_for_accuracy(layers, errors, borders)]
    if total_us:
        found += _for_islands(islands, layers, total_us)
        found += _for_pruning(layers, total_us, prunable)
    ranked = sorted(found, key=lambda change: (-change.score, change.layer))
    return tuple(change for change in ranked if change.score >= _LEAST)[:most]


# --- accuracy -------------------------------------------------------------------------------------


def _for_accuracy(
    layers: Sequence[LayerExplained], errors: Errors, borders: Mapping[str, str]
) -> Iterator[Change]:
    own = sum(row.own_noise or 0.0 for row in layers)
    if not own:
        return
    harm = min(math.sqrt(errors.noise / errors.varying), 1.0) if errors.varying else 1.0
    for row in layers:
        if not row.own_noise:
            continue
        share = row.own_noise / own
        cause, what, kind = _cause(row, borders.get(row.node))
        if share < 1.0:
            before, after = (decibels(errors.noise * part) for part in (1.0, 1.0 - share))
            expected = f"the outputs would agree to about {after:.1f} dB, not {before:.1f}"
        else:
            expected = "the outputs would agree"
        score = share * harm * (_AT_A_PRICE if kind is _Kind.COST else 1.0)
        if kind is _Kind.BROKEN:
            score = max(score, min(math.sqrt(row.local_noise or 0.0), 1.0))
        yield Change(row.name, "accuracy", score, cause, what, expected)


class _Kind(Enum):
    """Of what causes noise: something that is wrong; what can be had for nothing; the rest."""

    BROKEN = auto()
    FREE = auto()
    COST = auto()


def _cause(row: LayerExplained, border: str | None) -> tuple[str, str, _Kind]:
    """What is wrong with an operator, and what to do about it.

    border: what to do if it is only rounding, where that is known.
    """
    share = f"alone it leaves {row.own_db:.1f} dB of the outputs" if row.own_db is not None else ""
    if row.clipped > _CLIPPED and row.reach > _REACH:
        cause = (
            f"{row.clipped:.1%} of its values are clipped: they reach {row.reach:.1f} times the end"
            f" of its grid; {share}"
        )
        what = "calibrate on data like this, or with the observer min-max"
        return cause, what, _Kind.BROKEN
    off = row.gain - 1.0
    if row.local_noise and abs(off) > _OFF and off * off > _OF_GAIN * row.local_noise:
        cause = f"its values are {row.gain:.2f} times what they must be; {share}"
        return cause, "its scale is wrong: quantize again from the float model", _Kind.BROKEN
    if row.used < _UNUSED:
        cause = f"its values need {row.used:.0%} of its grid, whose steps are too wide; {share}"
        return cause, "calibrate on data like this, or with another observer", _Kind.FREE
    if row.weight_bits is not None and row.weight_bits < _EIGHT:
        cause = f"its weights have {row.weight_bits} bits; {share}"
        return cause, "give them more bits", _Kind.COST
    kept = row.module or row.operator
    what = border or f"keep it in float: {kept_in_float(kept)}"
    return f"rounding costs most here; {share}", what, _Kind.COST


def kept_in_float(module: str) -> str:
    """How the user keeps a module in float."""
    return f"`qpc quantize` with --float {shlex.quote(module)}"


# --- time -----------------------------------------------------------------------------------------


def _for_islands(
    islands: Sequence[Island], layers: Sequence[LayerExplained], total_us: float
) -> Iterator[Change]:
    speed = _macs_per_us(layers)
    for island in islands:
        macs = sum(row.macs for row in island.members)
        moving = sum((row.us or 0.0) for row in island.members if not row.macs) / _FASTER
        least = moving + (macs / speed if speed else 0.0)
        saved = max(island.us - least, 0.0)
        names = ", ".join(dict.fromkeys(row.operator for row in island.members))
        cause = (
            f"{names} run{'s' * (len(island.members) == 1)} in float, {island.us / total_us:.0%} of"
            f" the time with the way to floats and back: {island.root.why_float}"
        )
        yield Change(
            island.root.name,
            "time",
            saved / total_us,
            cause,
            _remedy(island.root),
            f"in integers a call would take about {saved:,.0f} us less",
        )


def _remedy(root: LayerExplained) -> str:
    if "configuration" in root.why_float:
        return "take it out of what is kept in float"
    if root.macs:
        return "mend what stands in the way, see the reason"
    return "write it with operators that have an integer form, or move it to an end of the model"


def _macs_per_us(layers: Sequence[LayerExplained]) -> float:
    """What the integer layers of this model reach."""
    quick = [row for row in layers if row.form == "integer" and row.macs and row.us]
    us = sum(row.us or 0.0 for row in quick)
    return sum(row.macs for row in quick) / us if us else 0.0


def _for_pruning(
    layers: Sequence[LayerExplained], total_us: float, prunable: Mapping[str, bool]
) -> Iterator[Change]:
    for row in layers:
        if not row.us or not row.macs or not prunable.get(row.node):
            continue
        saved = _FEWER * row.us
        yield Change(
            row.name,
            "time",
            _AT_A_PRICE * saved / total_us,
            f"it takes {row.us / total_us:.0%} of the time, and its channels can be pruned",
            "qpc prune, with --amount",
            f"{_FEWER:.0%} fewer channels would take about {saved:,.0f} us less",
        )
