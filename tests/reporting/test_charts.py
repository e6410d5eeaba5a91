from __future__ import annotations

from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

from qpc.explanation.inspection import Form
from qpc.reporting.charts import group_bar, histogram, pareto, shortened, waterfall
from qpc.reporting.data import Candidate, Group, Histogram, Layer, Run
from tests.conftest import Golden


def test_every_picture_is_xml_and_says_what_it_shows(made: Any) -> None:
    report = made.report
    drawn = [*pareto(report.run), waterfall(report.layers, 5.0)]
    drawn += [histogram(h) for h in report.histograms]
    drawn += [group_bar(g, 8) for g in report.groups]
    for text in drawn:
        assert ElementTree.fromstring(text).get("aria-label")


def test_there_is_a_pareto_picture_for_each_cost_that_was_measured(made: Any) -> None:
    macs, latency = pareto(made.report.run)
    assert macs.count("<circle") == 2
    assert latency.count("<circle") == 1


def test_bars_begin_where_the_one_before_ends(made: Any) -> None:
    tree = ElementTree.fromstring(waterfall(made.report.layers, 5.0))
    bars = list(tree.iter("rect"))
    assert len(bars) == 4
    for one, other in pairwise(bars):
        end = float(one.get("x", "")) + float(one.get("width", ""))
        assert abs(float(other.get("x", "")) - end) < 0.2


def test_nothing_is_drawn_without_times() -> None:
    assert waterfall((), None) == ""


def test_a_histogram_is_steps_on_a_logarithmic_axis_and_lines_where_the_grid_ends() -> None:
    found = Histogram(
        node="x", of="weights", low=-1.0, high=3.0, counts=(0, 1, 3), clips=(-1.0, 2.0)
    )
    tree = ElementTree.fromstring(histogram(found))
    (steps,) = tree.iter("path")
    assert steps.get("d") == "M0 90L0 90H80L80 45H160L160 0H240V90Z"  # log 2 is half of log 4
    clips = [(line.get("x1"), line.get("y1"), line.get("y2")) for line in tree.iter("line")]
    assert clips == [("1", "0", "90"), ("179.5", "0", "90")]
    assert [text.text for text in tree.iter("text")] == ["-1", "3"]
    flat = histogram(Histogram(node="x", of="activations", low=2.0, high=2.0, counts=(0,)))
    assert "<line" not in flat
    assert 'aria-label="histogram of activations from 2 to 2"' in flat


def layer(name: str, us: float | None, form: Form = "integer") -> Layer:
    return Layer(
        name=name, node=f"{name}_1", module=name, operator="add", shape="", macs=0, form=form, us=us
    )


RUN = Run(
    metric="top-1",
    limit=0.9,
    candidates=(
        Candidate(name="<before>", metric=0.94, costs={"macs": 9000.0}, pareto=("macs",)),
        Candidate(name="b", metric=0.91, costs={"macs": 8000.0, "latency_ms": 0.25}),
        Candidate(name="c", metric=0.92, costs={"macs": 4e3}, pareto=("macs",), best=True),
    ),
)


def test_every_line_of_the_pictures_is_as_it_was(golden: Golden) -> None:
    layers = [layer("a & b", 750.0), layer("quick", 0.1, "float"), layer("unknown", None)]
    drawn = [
        *pareto(RUN),
        *pareto(Run(metric="top-1", candidates=RUN.candidates[:1])),
        waterfall(layers, 250.5),
        waterfall(layers, None),
        group_bar(Group(index=0, layers=("a",), channels=6, prunable=2), 8),
        group_bar(Group(index=0, layers=("a",), channels=1, prunable=1), 1),
        group_bar(Group(index=0, layers=("a",), channels=0, prunable=0), 0),
    ]
    golden("charts", "\n\n".join(text.replace("><", ">\n<") for text in drawn))


def test_long_names_keep_their_modules() -> None:
    assert shortened("a.b (conv2d_default)", 30) == "a.b (conv2d_default)"
    assert shortened("a.b (conv2d_default)", 10) == "a.b"
    assert shortened("layer1.block2.conv", 8) == "…k2.conv"
