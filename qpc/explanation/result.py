"""What `qpc.explain` found: each layer, and the changes that would gain most."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from qpc.backends.profile import Limit
from qpc.explanation.inspection import Form
from qpc.terminal.notebook import Shown
from qpc.terminal.plain import plain

_FORMAT = "qpc-explanation-1"
Gain = Literal["accuracy", "time"]
"""What a change would gain."""


@dataclass(frozen=True)
class LayerExplained:
    """One operator of a compressed model.

    name, node, module, operator, macs, weight_bits, form: as in `LayerFacts`.

    us: microseconds in the compiled model; None if it was not profiled. share: of the whole time.
    limit: what limits it, and of_limit how much of its time that alone would take. float_us:
    microseconds in float, in PyTorch, operator by operator. inside: the operator whose kernel does
    this one, too.

    noise: squared error of its result over its squares with all operators quantized; own_noise:
    that of the outputs with only this one; None if it has no value in common with the float model.
    local_noise: that of its own result. gain: by what factor its result is too large. clipped:
    share of the values outside of its grid; reach: the greatest of them over the end of the grid.
    used: the share of its grid that they need. span: the least and the greatest of them, or zero.

    why_float, why_whole, why_alone: why it is not in integers, not pruned, not fused; empty if it
    is, or nothing is known.
    """

    name: str
    node: str
    module: str
    operator: str
    macs: int
    weight_bits: int | None
    form: Form
    us: float | None = None
    share: float | None = None
    limit: Limit | None = None
    of_limit: float | None = None
    float_us: float | None = None
    inside: str = ""
    noise: float | None = None
    own_noise: float | None = None
    local_noise: float | None = None
    gain: float = 1.0
    clipped: float = 0.0
    reach: float = 0.0
    used: float = 1.0
    span: tuple[float, float] | None = None
    why_float: str = ""
    why_whole: str = ""
    why_alone: str = ""

    @property
    def own_db(self) -> float | None:
        """Signal-to-noise ratio of the outputs with only this operator quantized, in dB."""
        return None if self.own_noise is None else decibels(self.own_noise)

    @property
    def local_db(self) -> float | None:
        """The same of its own result."""
        return None if self.local_noise is None else decibels(self.local_noise)


@dataclass(frozen=True)
class Change:
    """A change that would gain something.

    layer: what is to be changed, as its row is called. gain: what it would gain, and score how much
    of what is lost, from 0 to 1. cause: what is wrong. what: what to do. expected: what comes of
    it.
    """

    layer: str
    gain: Gain
    score: float
    cause: str
    what: str
    expected: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.cause}. {self.expected}: {self.what}"


@dataclass(frozen=True, repr=False)
class Explanation(Shown):
    """Why a compressed model is as slow and as wrong as it is.

    layers: in the order of the graph. changes: those that would gain most, the best first. noise:
    squared error of the outputs over their squares; varying: the share of the squares that is not
    the same for all samples. samples: of how many these are, and own_samples: of how many of them
    the own and local errors of the layers are. total_us: microseconds of a call; None without a
    compiled model. other_us: what of it belongs to no operator. batch, threads: of it. target: what
    it was compiled for.
    """

    layers: tuple[LayerExplained, ...]
    changes: tuple[Change, ...]
    noise: float
    varying: float = 1.0
    samples: int = 1
    own_samples: int = 1
    total_us: float | None = None
    other_us: float | None = None
    batch: int | None = None
    threads: int | None = None
    target: str = ""

    def _bars(self) -> tuple[str, Iterator[tuple[str, float]]]:
        return "own noise", ((row.name, row.own_noise or 0.0) for row in self.layers)

    @property
    def sampled(self) -> str:
        """Of how many samples own errors are, where these are not all; empty otherwise."""
        if self.own_samples == self.samples:
            return ""
        return (
            f"own and local errors are those of {self.own_samples} of {self.samples} samples, as"
            " much is computed for each"
        )

    @property
    def sqnr_db(self) -> float:
        """Signal-to-noise ratio of the outputs against float, in dB; inf if they are equal."""
        return decibels(self.noise)

    def worst(self, most: int | None = None) -> tuple[LayerExplained, ...]:
        """The layers with the greatest own errors."""
        known = [layer for layer in self.layers if layer.own_noise is not None]
        return tuple(sorted(known, key=lambda row: -(row.own_noise or 0.0))[:most])

    def slowest(self, most: int | None = None) -> tuple[LayerExplained, ...]:
        """The layers that take longest."""
        known = [layer for layer in self.layers if layer.us is not None]
        return tuple(sorted(known, key=lambda row: -(row.us or 0.0))[:most])

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values; ratios in dB that are infinite are null."""
        data = plain(self)
        assert isinstance(data, dict)
        for row, layer in zip(data["layers"], self.layers, strict=True):
            row |= {"own_db": plain(layer.own_db), "local_db": plain(layer.local_db)}
        return {"format": _FORMAT, "sqnr_db": plain(self.sqnr_db), **data}

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<Explanation of {len(self.layers)} layers, {self.sqnr_db:.1f} dB>"

    def table(self, most: int | None = None) -> str:
        """The layers as aligned text, or the `most` of them that matter, and the changes."""
        rows = list(self.layers)
        if most is not None and len(rows) > most:
            first = {r.node for r in (*self.slowest(most // 2), *self.worst(most - most // 2))}
            rows = [row for row in rows if row.node in first]
        return "\n".join([*_lines(rows), "", *self._totals(), "", *self._said()])

    def _totals(self) -> Iterator[str]:
        yield f"outputs agree with float to {_db(self.sqnr_db).strip()} dB"
        if self.sampled:
            yield self.sampled
        if self.total_us is not None:
            threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
            yield (
                f"a call takes {self.total_us:,.0f} us, {self.other_us or 0.0:,.0f} of them between"
                f" operators (batch {self.batch}, {threads}, {self.target})"
            )
        if slow := [r.float_us for r in self.layers if r.float_us is not None]:
            yield f"in float, PyTorch takes {sum(slow):,.0f} us for the same operators"

    def _said(self) -> Iterator[str]:
        if not self.changes:
            yield "nothing stands out: no change would gain much"
            return
        yield "what would gain most:"
        for number, change in enumerate(self.changes, 1):
            yield f"{number}. {change.layer}: {change.cause}"
            yield f"   {change.expected}: {change.what}"

    def dumps(self) -> str:
        """Everything as JSON text."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False)


def decibels(noise: float) -> float:
    """A ratio of noise to signal as signal to noise in dB; inf without noise, -inf if infinite."""
    if noise == 0.0:
        return math.inf
    return -10 * math.log10(noise) if math.isfinite(noise) else -math.inf


def _lines(rows: list[LayerExplained]) -> Iterator[str]:
    width = max([len(row.name) for row in rows] or [5])
    yield (
        f"{'layer':<{width}}  {'us':>8}  {'share':>6}  {'limit':<13}  {'float us':>8}"
        f"  {'own dB':>6}  {'local':>6}  {'clipped':>7}  why"
    )
    for row in rows:
        us = "" if row.us is None else f"{row.us:.1f}"
        share = "" if row.share is None else f"{row.share:.1%}"
        limit = "" if row.limit is None else f"{row.limit} {row.of_limit or 0:.0%}"
        slow = "" if row.float_us is None else f"{row.float_us:.1f}"
        clipped = f"{row.clipped:.2%}" if row.clipped else ""
        yield (
            f"{row.name:<{width}}  {us:>8}  {share:>6}  {limit:<13}  {slow:>8}"
            f"  {_db(row.own_db)}  {_db(row.local_db)}  {clipped:>7}  {_why(row)}"
        ).rstrip()


def _db(value: float | None) -> str:
    if value is None:
        return " " * 6
    return f"{'inf' if value > 0 else '-inf':>6}" if math.isinf(value) else f"{value:6.1f}"


def _why(row: LayerExplained) -> str:
    parts = [f"in {row.inside}"] if row.inside else []
    parts += [f"float: {row.why_float}"] if row.why_float else []
    parts += [f"not pruned: {row.why_whole}"] if row.why_whole else []
    parts += [f"alone: {row.why_alone}"] if row.why_alone else []
    return "; ".join(parts)
