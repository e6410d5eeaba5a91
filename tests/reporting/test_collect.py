from __future__ import annotations

from typing import Any

import pytest
from torch.fx import GraphModule

import qpc
from qpc.errors import PassError
from qpc.reporting.collect import report_of
from qpc.reporting.data import Report


def test_layers_have_errors_costs_and_groups(made: Any) -> None:
    report: Report = made.report
    rows = {row.module: row for row in report.layers if row.macs}
    assert set(rows) == {"first", "second", "head"}
    assert rows["first"].macs == 3 * 8 * 9 * 64
    assert rows["first"].group == rows["second"].group  # they are added
    for row in rows.values():
        assert row.us == 10.0
        assert row.weight_bits == 8
        assert row.noise is not None
        assert 0 < row.noise < 0.01
        assert row.sparsity is not None
        assert 0 <= row.sparsity < 0.2
    assert report.summary.other_us == 5.0


def test_the_graph_is_whole(made: Any) -> None:
    names = [node.node for node in made.report.graph]
    assert {n for node in made.report.graph for n in node.inputs} <= set(names)
    assert made.report.graph[0].operator == "placeholder"
    assert made.report.graph[-1].operator == "output"
    assert {row.node for row in made.report.layers} <= set(names)


def test_sizes_are_those_before_and_after(made: Any) -> None:
    summary = made.report.summary
    assert summary.before.fingerprint == qpc.fingerprint(made.reference)
    assert summary.after.fingerprint == qpc.fingerprint(made.integer)
    assert summary.before.bytes > 2 * summary.after.bytes
    assert summary.samples == 4
    assert [a.top1 for a in summary.accuracy] == [0.75, 0.5]


def test_costs_that_were_not_measured_are_left_out(made: Any) -> None:
    assert [row.costs for row in made.report.run.candidates] == [
        {"macs": 9000},
        {"macs": 4000, "latency_ms": 0.5},
    ]
    assert [row.best for row in made.report.run.candidates] == [False, True]


def test_a_float_graph_is_refused(made: Any) -> None:
    reference: GraphModule = made.reference
    with pytest.raises(PassError, match="explain needs a quantized graph"):
        report_of(reference, reference, [made.batch])


def test_the_picture_says_what_is_in_integers(made: Any) -> None:
    *found, _ = [(node.label, node.form) for node in made.report.graph]
    layers = ("first (conv2d_default)", "second (conv2d_add_default)", "mean_default")
    computed = ("quantize_default", *layers, "head (linear_float_default)")
    assert found == [("x", "float"), *((name, "integer") for name in computed)]
