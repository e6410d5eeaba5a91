from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpc.compression.plot import Dot, Panel, draw

SPACE = "{http://www.w3.org/2000/svg}"


def dots(*places: tuple[float, float]) -> tuple[Dot, ...]:
    return tuple(Dot(x, y, f"{x}/{y}", True, False) for x, y in places)


def drawn(*panels: Panel) -> ElementTree.Element:
    return ElementTree.fromstring(draw(panels, "accuracy <1>"))


def test_names_are_text_not_markup() -> None:
    picture = drawn(Panel("a & b", (Dot(1, 2, "<script>", False, True),)))
    assert [title.text for title in picture.iter(f"{SPACE}title")] == ["<script>: 2"]


def test_the_front_is_a_line_from_left_to_right() -> None:
    picture = drawn(Panel("x", (*dots((3, 3), (1, 1)), Dot(2, 0, "off", False, False))))
    (line,) = picture.iter(f"{SPACE}polyline")
    ends = [float(pair.split(",")[0]) for pair in line.attrib["points"].split()]
    assert ends == sorted(ends)
    assert len(ends) == 2


@pytest.mark.parametrize("places", [(), ((5, 0.5),), ((0, 0), (0, 0)), ((1e12, -3), (2e12, 4))])
def test_few_and_equal_points_can_be_drawn(places: tuple[tuple[float, float], ...]) -> None:
    picture = drawn(Panel("x", dots(*places), limit=0.5))
    assert len(list(picture.iter(f"{SPACE}circle"))) == len(places)


NUMBERS = st.floats(-1e9, 1e9).map(lambda x: round(x, 3))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6))
def test_all_points_are_inside_of_their_panel(places: list[tuple[float, float]]) -> None:
    picture = drawn(Panel("x", dots(*places)))
    for circle in picture.iter(f"{SPACE}circle"):
        assert 64 <= float(circle.attrib["cx"]) <= 340
        assert 20 <= float(circle.attrib["cy"]) <= 252
