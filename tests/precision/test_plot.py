from __future__ import annotations

import math
from xml.etree import ElementTree as ET

from qpc.precision.plot import Dot, Row, draw

SVG = "{http://www.w3.org/2000/svg}"


def test_every_finite_dot_is_drawn_left_to_right_by_its_value() -> None:
    rows = [
        Row("a<b", (Dot(10, "8 bits"), Dot(40, "4 bits"))),
        Row("c", (Dot(math.inf, "8 bits"),)),
    ]
    tree = ET.fromstring(draw(rows, "dB"))
    texts = [text.text for text in tree.iter(f"{SVG}text")]
    assert {"a<b", "c", "dB", "8 bits", "4 bits", "10", "40"} <= set(texts)
    legend, (first, second) = (
        [c for c in tree.iter(f"{SVG}circle") if c.get("cy") == "12"],
        [c for c in tree.iter(f"{SVG}circle") if c.get("cy") != "12"],
    )
    assert len(legend) == 2
    assert float(first.get("cx", 0)) < float(second.get("cx", 0))
    assert first.get("fill") != second.get("fill")


def test_nothing_and_one_point_are_pictures_too() -> None:
    for rows in ([], [Row("a", ())], [Row("a", (Dot(5, "8 bits"),))]):
        ET.fromstring(draw(rows, "dB"))
