"""A picture of dots on lines as SVG; no plotting library is needed for that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Dot:
    """A point on a line, and what it is called."""

    x: float
    name: str


@dataclass(frozen=True)
class Row:
    """A line of points."""

    name: str
    dots: tuple[Dot, ...]


_HEIGHT, _TOP, _BOTTOM = 18, 36, 30  # of a row, above and below all, in pixels
_LETTER, _WIDTH, _RIGHT = 6.5, 560, 70  # of a letter of a name, of the axis, beside it
_COLOURS = ("#2166ac", "#67a9cf", "#ef8a62", "#b2182b", "#762a83", "#1b7837")
_STEPS = (1, 2, 5, 10, 20, 50, 100)
_TICKS = 8  # at most


def draw(rows: Sequence[Row], title: str) -> str:
    """The rows below each other, over one axis; points at infinity are left out."""
    finite = [dot.x for row in rows for dot in row.dots if math.isfinite(dot.x)] or [0.0, 1.0]
    step = next((s for s in _STEPS if (max(finite) - min(finite)) / s <= _TICKS), _STEPS[-1])
    low = math.floor(min(finite) / step) * step
    high = max(math.ceil(max(finite) / step) * step, low + step)
    names = list(dict.fromkeys(dot.name for row in rows for dot in row.dots))
    left = 16 + max((len(row.name) for row in rows), default=0) * _LETTER
    width, height = left + _WIDTH + _RIGHT, _TOP + len(rows) * _HEIGHT + _BOTTOM

    def at(x: float) -> float:
        return round(left + (x - low) / (high - low) * _WIDTH, 1)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}"'
        f' width="{width:.0f}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width:.0f}" height="{height}" fill="white"/>',
    ]
    for place, name in enumerate(names):
        x = left + place * 80
        lines.append(f'<circle cx="{x + 4:.1f}" cy="12" r="4" fill="{_colour(place)}"/>')
        lines.append(f'<text x="{x + 12:.1f}" y="16">{escape(name)}</text>')
    bottom = _TOP + len(rows) * _HEIGHT
    for tick in range(low, high + 1, step):
        lines.append(f'<path d="M{at(tick)} {_TOP - 8}V{bottom}" stroke="#ddd"/>')
        lines.append(f'<text x="{at(tick)}" y="{bottom + 12}" text-anchor="middle">{tick}</text>')
    lines.append(f'<text x="{left:.1f}" y="{bottom + 26}">{escape(title)}</text>')
    for place, row in enumerate(rows):
        y = _TOP + place * _HEIGHT
        lines.append(
            f'<text x="{left - 8:.1f}" y="{y + 4}" text-anchor="end">{escape(row.name)}</text>'
        )
        for dot in row.dots:
            if math.isfinite(dot.x):
                colour = _colour(names.index(dot.name))
                lines.append(f'<circle cx="{at(dot.x)}" cy="{y}" r="4" fill="{colour}"/>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]
