"""Which changes to a compressed model would gain most, and how much.

A change is worth the share of the loss that it takes back, from 0 to 1: of the time, or of the
noise, as far as the noise does any harm. So a float operator that takes half of the time, and a
layer without which the outputs would be right, come before what could be a little better. Noise
does harm as compared with what differs between the outputs for different samples: a constant that
all of them have in common says nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qpc.explanation.own_errors import Errors
from qpc.explanation.result import Change, LayerExplained, decibels

HARMFUL = 0.01
"""Noise over what differs between outputs from which on it counts fully: 20 dB, about where
classifiers of images begin to answer otherwise."""
_LEAST = 0.02  # of what is lost; what would gain less is not worth a word
_CLIPPED = 0.001  # share of the values outside of a grid from which on they are the cause
_REACH = 1.25  # of the end of the grid, likewise
_OFF = 0.03  # a factor this far from 1 comes from no rounding
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
) -> tuple[Change, ...]:
    """The changes that would gain most, the best first.

    layers: all rows. errors: of the outputs. total_us: of a call, if it is known. prunable: whether
    the channels that a layer makes may go, by the layer's node.
    """
    found = [*_for_accuracy(layers, errors)]
    if total_us:
        found += _for_islands(islands, layers, total_us)
        found += _for_pruning(layers, total_us, prunable)
    ranked = sorted(found, key=lambda change: (-change.score, change.layer))
    return tuple(change for change in ranked if change.score >= _LEAST)[:most]


# --- accuracy -------------------------------------------------------------------------------------


def _for_accuracy(layers: Sequence[LayerExplained], errors: Errors) -> Iterator[Change]:
    noise, harmful = errors.noise, HARMFUL * errors.varying
    own = sum(row.own_noise or 0.0 for row in layers)
    if not own:
        return
    for row in layers:
        if not row.own_noise:
            continue
        share = row.own_noise / own
        score = share * min(row.own_noise / harmful, 1.0)
        cause, what, free = _cause(row)
        if share < 1.0:
            after = decibels(noise * (1.0 - share))
            expected = f"the outputs would agree to about {after:.1f} dB, not {decibels(noise):.1f}"
        else:
            expected = "the outputs would agree"
        score *= 1.0 if free else _AT_A_PRICE
        yield Change(row.name, "accuracy", score, cause, what, expected)


def _cause(row: LayerExplained) -> tuple[str, str, bool]:
    """What is wrong with an operator, what to do about it, and whether that costs nothing."""
    share = f"alone it leaves {row.own_db:.1f} dB of the outputs" if row.own_db is not None else ""
    if row.clipped > _CLIPPED and row.reach > _REACH:
        cause = (
            f"{row.clipped:.1%} of its values are clipped: they reach {row.reach:.1f} times the end"
            f" of its grid; {share}"
        )
        return cause, "calibrate on data like this, or with the observer min-max", True
    if row.local_noise is not None and abs(row.gain - 1.0) > _OFF:
        cause = f"its values are {row.gain:.2f} times what they must be; {share}"
        return cause, "its scale is wrong: quantize again from the float model", True
    if row.used < _UNUSED:
        cause = f"its values need {row.used:.0%} of its grid, whose steps are too wide; {share}"
        return cause, "calibrate on data like this, or with another observer", True
    if row.weight_bits is not None and row.weight_bits < _EIGHT:
        return f"its weights have {row.weight_bits} bits; {share}", "give them more bits", False
    kept = row.module or row.operator
    what = f"keep it in float: --float {shlex.quote(kept)}"
    return f"rounding costs most here; {share}", what, False


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
