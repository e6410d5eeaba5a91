"""Scatter plots as SVG, written by hand: no plotting library is needed to see how a run went."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Dot:
    """A point: its place, what it is called, whether it is on the front, and whether it is best."""

    x: float
    y: float
    name: str
    front: bool
    best: bool


@dataclass(frozen=True)
class Panel:
    """One plot: the title of its x axis, its points, and a line across it, if any."""

    title: str
    dots: tuple[Dot, ...]
    limit: float | None = None


_WIDTH, _HEIGHT = 360, 300  # of a panel, in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 20, 48  # around its axes
_STEPS = 4  # ticks of an axis, about
_ROOM = 0.06  # of an axis, beyond the outermost points
_SHORT = 1e4  # from here on ticks have a unit in front
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def draw(panels: Sequence[Panel], title: str) -> str:
    """The panels side by side; `title`: of all y axes."""
    width = _WIDTH * max(len(panels), 1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT}"'
        f' viewBox="0 0 {width} {_HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{_HEIGHT}" fill="white"/>',
    ]
    for place, panel in enumerate(panels):
        lines.append(f'<g transform="translate({place * _WIDTH},0)">')
        lines += _panel(panel, title)
        lines.append("</g>")
    return "\n".join([*lines, "</svg>"]) + "\n"


@dataclass(frozen=True)
class Axis:
    """Values of data, from `low` to `high`, on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @staticmethod
    def over(values: Sequence[float], start: float, end: float) -> Axis:
        """An axis with some room beyond the outermost values."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        room = (high - low) * _ROOM or abs(high) * _ROOM or 1.0
        return Axis(low - room, high + room, start, end)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        way = (value - self.low) / (self.high - self.low)
        return round(self.start + way * (self.end - self.start), 1)

    def ticks(self) -> Iterator[float]:
        """Round numbers inside."""
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / _STEPS))
        step *= next(n for n in (1, 2, 5, 10) if (self.high - self.low) / (step * n) <= _STEPS + 1)
        for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1):
            yield number * step


def _panel(panel: Panel, title: str) -> Iterator[str]:
    limits = [] if panel.limit is None else [panel.limit]
    x = Axis.over([dot.x for dot in panel.dots], _LEFT, _WIDTH - _RIGHT)
    y = Axis.over([dot.y for dot in panel.dots] + limits, _HEIGHT - _BOTTOM, _TOP)
    for value in x.ticks():
        yield _line(x.at(value), _TOP, x.at(value), _HEIGHT - _BOTTOM, "#e0e0e0")
        yield _text(x.at(value), _HEIGHT - _BOTTOM + 14, tick(value), "middle")
    for value in y.ticks():
        yield _line(_LEFT, y.at(value), _WIDTH - _RIGHT, y.at(value), "#e0e0e0")
        yield _text(_LEFT - 6, y.at(value) + 4, tick(value), "end")
    yield _line(_LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, "black")
    yield _line(_LEFT, _TOP, _LEFT, _HEIGHT - _BOTTOM, "black")
    yield _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, panel.title, "middle")
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    yield (
        f'<text transform="translate(14,{middle:g}) rotate(-90)" text-anchor="middle">'
        f"{escape(title)}</text>"
    )
    if panel.limit is not None:
        at = y.at(panel.limit)
        yield _line(_LEFT, at, _WIDTH - _RIGHT, at, "#c03020", ' stroke-dasharray="5 4"')
    yield from _dots(panel, x, y)


def _dots(panel: Panel, x: Axis, y: Axis) -> Iterator[str]:
    front = sorted((dot for dot in panel.dots if dot.front), key=lambda dot: dot.x)
    points = " ".join(f"{x.at(dot.x):g},{y.at(dot.y):g}" for dot in front)
    yield f'<polyline class="front" points="{points}" fill="none" stroke="#2060b0"/>'
    for dot in panel.dots:
        fill = "#2060b0" if dot.front else "white"
        ring = ' stroke-width="2.5"' if dot.best else ""
        edge = "#d08000" if dot.best else "#2060b0"
        yield (
            f'<circle cx="{x.at(dot.x):g}" cy="{y.at(dot.y):g}" r="4.5" fill="{fill}"'
            f' stroke="{edge}"{ring}><title>{escape(dot.name)}: {dot.y:g}</title></circle>'
        )


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, more: str = "") -> str:
    place = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
    return f'<line {place} stroke="{stroke}"{more}/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def tick(value: float) -> str:
    """A number as it stands at an axis."""
    for size, unit in _UNITS:
        if abs(value) >= max(size, _SHORT if unit == "k" else size):
            return f"{value / size:g}{unit}"
    return f"{value:.6g}"
