"""The pictures of a report as SVG, coloured by the page's style sheet, in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from qpc.compression.plot import Axis, tick
from qpc.reporting.data import Candidate, Group, Histogram, Layer, Run

_COST_NAMES = {
    "macs": "MACs",
    "parameters": "parameters",
    "bytes": "bytes",
    "latency_ms": "latency in ms",
}
_WIDE, _HIGH = 360, 260  # of a Pareto picture, in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 14, 44
_HISTOGRAM, _TALL, _FOOT = 240, 90, 16  # of a histogram, and of the room for numbers below
_ROW, _NAMES, _BARS, _NUMBERS = 18, 190, 420, 70  # of a waterfall
_MOST_NAME = 28  # characters of a name beside a bar
_LEAST = 1.0  # pixels of a bar that there is at all


def pareto(run: Run) -> Iterator[str]:
    """A picture for each cost that was measured: the metric over it, and the Pareto front."""
    for cost, name in _COST_NAMES.items():
        known = [row for row in run.candidates if cost in row.costs]
        if known:
            yield _svg(_WIDE, _HIGH, f"{run.metric} over {name}", _panel(run, known, cost, name))


def waterfall(layers: Sequence[Layer], other_us: float | None) -> str:
    """Where the time of a call goes: each operator's bar begins where the one before ends."""
    known = [layer for layer in layers if layer.us]
    total = sum(layer.us or 0.0 for layer in known) + (other_us or 0.0)
    if not total:
        return ""
    rows = [(layer.name, layer.us or 0.0, f"bar {layer.form}", layer.node) for layer in known]
    rows += [("between operators", other_us, "bar other", "")] if other_us else []
    height = _ROW * len(rows)
    title = f"latency of {len(known)} operators, {total:,.0f} microseconds together"
    return _svg(_NAMES + _BARS + _NUMBERS, height, title, _bars(rows, total), "waterfall")


def histogram(found: Histogram) -> str:
    """The counts on a logarithmic axis, and lines where the grid ends."""
    label = f"histogram of {found.of} from {found.low:.3g} to {found.high:.3g}"
    return _svg(_HISTOGRAM, _TALL + _FOOT, label, _counts(found), f"histogram {found.of}")


def group_bar(group: Group, most: int) -> str:
    """The channels of a group, of which those that may go are filled."""
    width = 240.0
    whole = width * group.channels / max(most, 1)
    free = width * group.prunable / max(most, 1)
    label = f"{group.prunable} of {group.channels} channels can be pruned"
    lines = (
        f'<rect class="bar whole" width="{max(whole, _LEAST):.1f}" height="12"/>',
        f'<rect class="bar integer" width="{free:.1f}" height="12"/>',
    )
    return _svg(int(width), 12, label, iter(lines), "group")


def shortened(name: str, most: int) -> str:
    """A layer's name in so many characters: its module alone, or the end of that."""
    module = name if len(name) <= most else name.partition(" (")[0]
    return module if len(module) <= most else f"…{module[1 - most :]}"


# --- parts ----------------------------------------------------------------------------------------


def _svg(width: int, height: int, label: str, lines: Iterator[str], kind: str = "plot") -> str:
    head = (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img" aria-label="{escape(label)}">'
    )
    return "".join([head, *lines, "</svg>"])


def _panel(run: Run, known: Sequence[Candidate], cost: str, name: str) -> Iterator[str]:
    limits = [] if run.limit is None else [run.limit]
    x = Axis.over([row.costs[cost] for row in known], _LEFT, _WIDE - _RIGHT)
    y = Axis.over([row.metric for row in known] + limits, _HIGH - _BOTTOM, _TOP)
    for value in x.ticks():
        yield _line(x.at(value), _TOP, x.at(value), _HIGH - _BOTTOM, "gridline")
        yield _text(x.at(value), _HIGH - _BOTTOM + 14, tick(value), "middle")
    for value in y.ticks():
        yield _line(_LEFT, y.at(value), _WIDE - _RIGHT, y.at(value), "gridline")
        yield _text(_LEFT - 5, y.at(value) + 4, tick(value), "end")
    yield _text((_LEFT + _WIDE - _RIGHT) / 2, _HIGH - 8, name, "middle")
    if run.limit is not None:
        yield _line(_LEFT, y.at(run.limit), _WIDE - _RIGHT, y.at(run.limit), "limit")
    front = sorted((r for r in known if cost in r.pareto), key=lambda r: r.costs[cost])
    points = " ".join(f"{x.at(r.costs[cost]):g},{y.at(r.metric):g}" for r in front)
    yield f'<polyline class="front" points="{points}"/>'
    for row in known:
        kind = " ".join(["dot", *["on"] * (cost in row.pareto), *["best"] * row.best])
        yield (
            f'<circle class="{kind}" cx="{x.at(row.costs[cost]):g}" cy="{y.at(row.metric):g}"'
            f' r="4.5"><title>{escape(row.name)}: {row.metric:.4g} at'
            f" {row.costs[cost]:,.6g}</title></circle>"
        )


def _bars(rows: Sequence[tuple[str, float, str, str]], total: float) -> Iterator[str]:
    before = 0.0
    for place, (name, us, kind, node) in enumerate(rows):
        y = place * _ROW
        start = _NAMES + _BARS * before / total
        width = max(_BARS * us / total, _LEAST)
        short = shortened(name, _MOST_NAME)
        yield f'<g data-node="{escape(node)}"><title>{escape(name)}: {us:,.1f} us</title>'
        yield _text(_NAMES - 6, y + 13, short, "end")
        yield f'<rect class="{kind}" x="{start:.1f}" y="{y + 3}" width="{width:.1f}" height="12"/>'
        yield _text(_NAMES + _BARS + _NUMBERS, y + 13, f"{us:,.1f}", "end")
        yield "</g>"
        before += us


def _counts(found: Histogram) -> Iterator[str]:
    step = _HISTOGRAM / len(found.counts)
    most = math.log1p(max(found.counts, default=0)) or 1.0
    path = [f"M0 {_TALL}"]
    for place, count in enumerate(found.counts):
        top = _TALL * (1 - math.log1p(count) / most)
        path.append(f"L{place * step:.0f} {top:.0f}H{(place + 1) * step:.0f}")
    yield f'<path class="counts" d="{"".join(path)}V{_TALL}Z"/>'
    x = Axis(found.low, found.high, 1, _HISTOGRAM - 1)
    if found.high > found.low:
        for clip in found.clips:
            yield _line(x.at(clip), 0, x.at(clip), _TALL, "clip")
    yield _text(0, _TALL + 13, f"{found.low:.3g}", "start")
    yield _text(_HISTOGRAM, _TALL + 13, f"{found.high:.3g}", "end")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'
