from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import qpc
from qpc.backends.profile import KernelTime, Machine, Profile
from qpc.base import PassContext
from qpc.errors import MissingDependencyError
from qpc.precision.result import Effect, Sensitivity
from qpc.pruning.report import pruning_report
from qpc.terminal.notebook import InNotebook, Shown


@dataclass(frozen=True, repr=False)
class Times(Shown):
    """Times by name."""

    rows: tuple[tuple[str, float], ...] = (("<a>", 1.0), ("b", 2.0))

    def _bars(self) -> tuple[str, Iterator[tuple[str, float]]]:
        return "us", iter(self.rows)


def test_a_result_has_a_short_repr_and_a_view_without_foreign_markup() -> None:
    assert repr(Times()) == "<Times: us of 2 rows>"
    assert "&lt;a&gt;" in Times()._repr_html_()
    assert "<a>" not in Times()._repr_html_()


def test_a_result_without_bars_is_named_by_its_class() -> None:
    class Text(InNotebook):
        def __str__(self) -> str:
            return "a < b"

    assert repr(Text()) == "<Text>"
    assert Text()._repr_html_() == (
        "<details open><summary>&lt;Text&gt;</summary>"
        '<pre style="white-space: pre; overflow-x: auto">a &lt; b</pre></details>'
    )


def test_the_view_is_the_json_where_a_result_has_no_text() -> None:
    assert json.loads(Times()._text()) == Times().to_json() == {"rows": [["<a>", 1.0], ["b", 2.0]]}
    assert repr(Times((("a", 1.0),))) == "<Times: us of 1 row>"


def test_without_matplotlib_there_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"plot\(\) needs matplotlib") as caught:
        Times().plot()
    assert caught.value.fix == "pip install 'quantize-prune-compiler[plot]'"


def test_the_picture_has_a_bar_for_each_row() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    figure = Times().plot()
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [1.0, 2.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["<a>", "b"]
    assert axes.get_xlabel() == "us"
    assert axes.yaxis_inverted()  # the first row is on top
    rows = tuple((str(i), 1.0) for i in range(40))
    assert (figure.get_figheight(), Times(rows).plot().get_figheight()) == (2.0, 10.0)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_results_of_qpc_are_short_and_have_json() -> None:
    gm = qpc.trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(2, 3, 6, 6))
    context, batch = PassContext(), torch.randn(2, 3, 6, 6)
    int8 = qpc.quantize(gm, [batch], ctx=context)
    machine = Machine(1.0, {1: 1.0}, 0.1)
    call = KernelTime.of("k", ("a",), 1.0, 10, 10, machine)
    found: list[Any] = [
        qpc.inspect_graph(gm),
        qpc.compare(gm, int8, batch),
        qpc.explain(gm, int8, [batch], float_time=False),
        pruning_report(gm, gm),
        context,
        Profile((call,), 2.0, 1, 1, machine),
    ]
    for each in found:
        assert len(repr(each)) < 80
        assert repr(each).startswith("<")
        json.dumps(each.to_json(), allow_nan=False)
        assert each._repr_html_().startswith("<details")
    sensitivity = Sensitivity((Effect("weights", "a", 4, 0.1),), None, "hash")
    assert repr(sensitivity) == "<Sensitivity: 1 effects>"
