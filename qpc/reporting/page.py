"""The page: a report's data as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from qpc.explanation.result import decibels
from qpc.reporting.charts import group_bar, histogram, pareto, waterfall
from qpc.reporting.data import Layer, Report, Size
from qpc.reporting.picture import picture

_EXACT_DB = 999.0
"""What equal values are sorted as: more decibels than float32 has."""


@dataclass(frozen=True)
class _Cell:
    """What a cell shows, and what it is sorted by; tag: the class of its mark, if it has one."""

    text: str
    key: float | str
    kind: str = ""
    tag: str = ""


@dataclass(frozen=True)
class _Column:
    """A column of the table of layers, and a figure of the graph if `figure` is its name.

    falling: less is worse, and drawn stronger.
    """

    title: str
    help: str
    cell: Callable[[Layer], _Cell]
    text: bool = False
    figure: str = ""
    unit: str = ""
    falling: bool = False


def page_of(report: Report) -> str:
    """The report as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("qpc.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = _share
    most = max((group.channels for group in report.groups), default=0)
    names = {layer.node: layer.name for layer in report.layers}
    return environment.get_template("page.html.j2").render(
        r=report,
        s=report.summary,
        css=Markup(_asset("page.css")),
        js=Markup(_asset("page.js")),
        cards=list(_cards(report)),
        columns=_COLUMNS,
        forms=sorted({layer.form for layer in report.layers}),
        rows=[
            {"node": row.node, "form": row.form, "cells": [c.cell(row) for c in _COLUMNS]}
            for row in report.layers
        ],
        paretos=[] if report.run is None else [Markup(p) for p in pareto(report.run)],
        waterfall=Markup(waterfall(report.layers, report.summary.other_us)),
        picture=Markup(picture(report.graph)),
        histograms=[
            {
                "node": h.node,
                "name": names.get(h.node, h.node),
                "of": h.of,
                "outside": _outside(h.of, h.outside),
                "svg": Markup(histogram(h)),
            }
            for h in report.histograms
        ],
        groups=[(g, Markup(group_bar(g, most))) for g in report.groups],
        figures=_figures(report),
    )


def _asset(name: str) -> str:
    return resources.files("qpc.reporting").joinpath(name).read_text(encoding="utf-8")


# --- numbers --------------------------------------------------------------------------------------


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _outside(of: str, value: float) -> str:
    if not value:
        return ""
    return f"{value:.2%} {'at an end' if of == 'weights' else 'outside'}"


def _db(noise: float | None) -> _Cell:
    if noise is None:
        return _Cell("", "")
    found = decibels(noise)
    return _Cell("exact", _EXACT_DB) if noise == 0 else _Cell(f"{found:.1f}", round(found, 3))


def _number(value: float | None, form: str) -> _Cell:
    return _Cell("", "") if value is None else _Cell(format(value, form), value)


def _text(value: str) -> _Cell:
    return _Cell(value, value, "text")


def _why(row: Layer) -> _Cell:
    parts = [
        ("done by", row.inside),
        ("in float:", row.why_float),
        ("not pruned:", row.why_whole),
        ("not fused:", row.why_alone),
    ]
    text = "; ".join(f"{what} {why}" for what, why in parts if why)
    return _Cell(text, text, "why")


def _limit(row: Layer) -> _Cell:
    text = "" if row.limit is None else f"{row.limit} {row.of_limit or 0:.0%}"
    return _Cell(text, text, "text")


_COLUMNS = (
    _Column("layer", "Module and node", lambda r: _text(r.name), text=True),
    _Column("operator", "Operator", lambda r: _text(r.operator), text=True),
    _Column("form", "How it computes", lambda r: _Cell(r.form, r.form, "text", r.form), text=True),
    _Column("result", "Shape of its result", lambda r: _text(r.shape), text=True),
    _Column(
        "MACs",
        "Multiply-accumulates at batch size 1",
        lambda r: _number(r.macs or None, ","),
        figure="macs",
        unit="MACs",
    ),
    _Column("bits", "Bits of its weights", lambda r: _number(r.weight_bits, "d"), figure="bits",
            unit="bits", falling=True),
    _Column("zeros", "Share of its weights that are zero", lambda r: _number(r.sparsity, ".1%"),
            figure="sparsity", unit="zeros"),
    _Column("SQNR dB", "With all operators quantized", lambda r: _db(r.noise), figure="sqnr",
            unit="dB", falling=True),
    _Column("own dB", "Of the outputs, with only this operator quantized",
            lambda r: _db(r.own_noise), figure="own", unit="dB own", falling=True),
    _Column("clipped", "Share of values outside of its grid",
            lambda r: _number(r.clipped or None, ".2%"), figure="clipped", unit="clipped"),
    _Column("us", "Microseconds in the compiled model", lambda r: _number(r.us, ",.1f"),
            figure="us", unit="us"),
    _Column("time", "Share of a call's time", lambda r: _number(r.share, ".1%")),
    _Column("limit", "What limits it, and how much of its time that alone would take", _limit,
            text=True),
    _Column("float us", "Microseconds in float, in PyTorch", lambda r: _number(r.float_us, ",.1f"),
            figure="float_us", unit="us"),
    _Column("reasons", "Why it is as it is", _why, text=True),
)  # fmt: skip


def _figures(report: Report) -> dict[str, Any]:
    """What the script colours the graph by: kinds of figures, and the values of each node."""
    kinds: dict[str, Any] = {"form": {"title": "form", "unit": "", "falling": False}}
    nodes: dict[str, Any] = {
        node.node: {"text": f"{node.label}: {node.operator}", "values": {}} for node in report.graph
    }
    for column in _COLUMNS:
        cells = [(row.node, column.cell(row)) for row in report.layers]
        known = [(node, cell) for node, cell in cells if cell.text]
        for node, cell in known:
            if node in nodes and column.title != "layer":
                nodes[node]["text"] += f"; {column.title} {cell.text}"
            if node in nodes and column.figure and cell.key != _EXACT_DB:
                nodes[node]["values"][column.figure] = cell.key
        if column.figure and known:
            kinds[column.figure] = {
                "title": column.title, "unit": column.unit, "falling": column.falling,
            }  # fmt: skip
    return {"kinds": kinds, "nodes": nodes}


# --- cards ----------------------------------------------------------------------------------------


def _cards(report: Report) -> Iterator[dict[str, str]]:
    s = report.summary
    if s.accuracy and s.accuracy[-1].top1 is not None:
        before = f"{s.accuracy[0].name} {_share(s.accuracy[0].top1)}"
        yield _card("top-1", _share(s.accuracy[-1].top1), before if len(s.accuracy) > 1 else "")
    noise = (
        "exact" if s.noise == 0 else "none" if s.noise is None else f"{decibels(s.noise):.1f} dB"
    )
    yield _card("agreement with float", noise, f"of the outputs, {s.samples} samples")
    for title, name, unit in (("size", "bytes", "bytes"), ("MACs", "macs", ""),
                              ("parameters", "parameters", "")):  # fmt: skip
        yield _changed(title, name, unit, s.before, s.after)
    if s.after.us is not None:
        more = f"batch {s.batch}, {s.threads} thread(s)"
        if s.before.us:
            more = f"{s.before.us / s.after.us:.1f}x; PyTorch float {_time(s.before.us)}; {more}"
        yield _card("latency", _time(s.after.us), more)


def _card(title: str, value: str, more: str) -> dict[str, str]:
    return {"title": title, "value": value, "more": more}


def _changed(title: str, name: str, unit: str, before: Size, after: Size) -> dict[str, str]:
    old, new = getattr(before, name), getattr(after, name)
    ratio = f"{old / new:.2f}x less, " if new and old != new else ""
    return _card(title, _short(new, unit), f"{ratio}before {_short(old, unit)}")


def _short(value: int, unit: str) -> str:
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit[:1].upper()}"
    return f"{value} {unit}".strip()


def _time(us: float) -> str:
    return f"{us / 1e3:.2f} ms" if us >= 1e3 else f"{us:.0f} us"
