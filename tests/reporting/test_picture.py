from __future__ import annotations

from qpc.reporting.data import GraphNode
from qpc.reporting.picture import picture, places_of


def node(name: str, *inputs: str) -> GraphNode:
    return GraphNode(node=name, label=name, operator="add", form="float", inputs=inputs)


def test_a_node_stands_below_all_that_it_reads() -> None:
    nodes = (node("x"), node("a", "x"), node("b", "x"), node("c", "a", "b", "x"))
    places = places_of(nodes)
    assert places["x"][1] < places["a"][1] == places["b"][1] < places["c"][1]
    assert places["a"][0] != places["b"][0]
    assert len(set(places.values())) == 4


def test_names_are_text_and_no_markup() -> None:
    assert "&lt;b&gt;" in picture((node("<b>"),))
