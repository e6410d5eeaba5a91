"""The picture of a graph: nodes in rows, each below all that it reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from qpc.reporting.charts import shortened
from qpc.reporting.data import GraphNode

_BOX, _TALL, _BESIDE, _BELOW = 168, 34, 24, 26  # a node and the room around it, in pixels
_SWING = 40  # how far lines that pass rows swing out beside the boxes
_MOST = 24  # characters of a node's name


def picture(nodes: Sequence[GraphNode]) -> str:
    """The graph as SVG; the page's script colours the nodes, and moves and scales the view."""
    places = places_of(nodes)
    width = max(x for x, _ in places.values()) + _BOX + _BESIDE + _SWING
    height = max(y for _, y in places.values()) + _TALL + _BELOW
    lines = [
        f'<svg id="graph" viewBox="0 0 {width:g} {height:g}" data-width="{width:g}"'
        f' data-height="{height:g}" role="group" aria-label="graph of {len(nodes)} nodes">'
    ]
    lines += _edges(nodes, places)
    lines += _boxes(nodes, places)
    return "".join([*lines, "</svg>"])


def places_of(nodes: Sequence[GraphNode]) -> dict[str, tuple[float, float]]:
    """The upper left corner of each node.

    A node stands one row below the lowest that it reads. Within a row, nodes are ordered by where
    what they read stands, so that lines cross little, and each row is centred.
    """
    rows: dict[int, list[GraphNode]] = defaultdict(list)
    depth: dict[str, int] = {}
    for node in nodes:
        depth[node.node] = max((depth[n] + 1 for n in node.inputs), default=0)
        rows[depth[node.node]].append(node)
    widest = max(map(len, rows.values()))
    step = _BOX + _BESIDE
    found: dict[str, tuple[float, float]] = {}
    for number, row in sorted(rows.items()):

        def wish(node: GraphNode) -> float:
            above = [found[n][0] for n in node.inputs]
            return sum(above) / len(above) if above else 0.0

        start = _BESIDE + (widest - len(row)) * step / 2
        for place, node in enumerate(sorted(row, key=wish)):
            found[node.node] = (start + place * step, number * (_TALL + _BELOW) + _BELOW / 2)
    return found


def _edges(nodes: Sequence[GraphNode], places: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """Lines from node to node; one that passes rows swings out, so that boxes do not hide it."""
    for node in nodes:
        x2, y2 = places[node.node]
        for source in node.inputs:
            x1, y1 = places[source]
            middle, rows = _BOX / 2, (y2 - y1) / (_TALL + _BELOW)
            swing = 0.0 if rows < 1.5 or x1 != x2 else _BOX / 2 + _SWING
            yield (
                f'<path class="edge" d="M{x1 + middle:g} {y1 + _TALL:g}C{x1 + middle + swing:g}'
                f" {y1 + _TALL + _BELOW:g} {x2 + middle + swing:g} {y2 - _BELOW:g}"
                f' {x2 + middle:g} {y2:g}"/>'
            )


def _boxes(nodes: Sequence[GraphNode], places: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    for node in nodes:
        x, y = places[node.node]
        name = shortened(node.label, _MOST)
        yield (
            f'<g class="node {node.form}" data-node="{escape(node.node)}" tabindex="0"'
            f' data-operator="{escape(node.operator)}" role="button"'
            f' transform="translate({x:g} {y:g})">'
            f"<title>{escape(node.label)}: {escape(node.operator)}</title>"
            f'<rect width="{_BOX}" height="{_TALL}" rx="5"/>'
            f'<text x="{_BOX / 2:g}" y="14" text-anchor="middle">{escape(name)}</text>'
            f'<text class="figure" x="{_BOX / 2:g}" y="27" text-anchor="middle">'
            f"{escape(node.operator)}</text></g>"
        )
