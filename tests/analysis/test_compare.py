"""Two stages of a model are compared value by value, worst first."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc import recipes
from qpc.errors import CalibrationError, PassError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return y


DATA = [torch.randn(4, 2, 8, 8) for _ in range(3)]


def test_a_graph_equals_itself() -> None:
    gm = qpc.trace(Net(), DATA[0])
    result = qpc.compare(gm, gm, DATA)
    assert {row.sqnr_db for row in (*result.layers, *result.outputs)} == {math.inf}
    assert {row.max_error for row in result.layers} == {0.0}


def test_float_fake_quantized_and_integer_have_the_layers_in_common() -> None:
    gm = qpc.trace(Net(), DATA[0])
    fake = recipes.post_training_quantization(DATA).run(gm)
    integer = recipes.to_integer().run(fake)
    for stage in (fake, integer):
        result = qpc.compare(gm, stage, DATA)
        assert {"relu", "head (linear)"} <= {row.name for row in result.layers}
        assert all(row.sqnr_db > 25 for row in result.layers)
        assert all(row.cosine > 0.99 for row in result.layers)
    assert qpc.compare(fake, integer, DATA).outputs[0].sqnr_db > 40


class Scaled(nn.Module):
    """A linear layer without a bias, and things that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4, bias=False)

    def forward(self, x: Tensor) -> object:
        return {"y": self.fc(x), "nothing": None, "x": x}


def test_an_error_of_a_tenth_is_twenty_decibels_and_no_angle() -> None:
    gm = qpc.trace(Scaled(), torch.randn(5, 3))
    other = copy.deepcopy(gm)
    other.get_parameter("fc.weight").data *= 1.1
    x = torch.randn(5, 3)
    (row,) = qpc.compare(gm, other, x).layers
    assert (row.name, row.op) == ("fc (linear)", "linear")
    assert row.sqnr_db == pytest.approx(20, abs=1e-4)
    assert row.cosine == pytest.approx(1, abs=1e-6)
    largest = float(gm(x)["y"].detach().abs().max())
    assert row.max_error == pytest.approx(0.1 * largest, rel=1e-4)


def test_outputs_that_are_no_tensors_are_not_compared() -> None:
    gm = qpc.trace(Scaled(), torch.randn(5, 3))
    result = qpc.compare(gm, gm, torch.randn(5, 3))
    assert [row.name for row in result.outputs] == ["output 0", "output 1"]
    assert "nothing" not in str(result)


def test_the_worst_layer_comes_first() -> None:
    gm = qpc.trace(Net(), DATA[0])
    errors = [row.sqnr_db for row in qpc.compare(gm, qpc.quantize(gm, DATA), DATA).layers]
    assert errors == sorted(errors)


def test_sums_run_over_all_batches() -> None:
    gm = qpc.trace(Net(), DATA[0])
    integer = qpc.quantize(gm, DATA)
    split = qpc.compare(gm, integer, DATA).outputs[0]
    whole = qpc.compare(gm, integer, torch.cat(DATA)).outputs[0]
    # sums of floats at other batch sizes, which nothing rounds
    assert split.sqnr_db == pytest.approx(whole.sqnr_db, rel=1e-4)
    assert split.max_error == pytest.approx(whole.max_error, rel=1e-3)


def test_the_table_lists_layers_and_outputs() -> None:
    gm = qpc.trace(Net(), DATA[0])
    lines = qpc.compare(gm, qpc.quantize(gm, DATA), DATA).table(most=1).splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["layer", "operator", "SQNR", "dB", "cosine", "max", "error"]
    assert lines[2].startswith("output 0")


def test_refuses_graphs_without_common_values_and_no_batches() -> None:
    gm = qpc.trace(Net(), DATA[0])
    other = qpc.trace(nn.Sigmoid(), DATA[0])
    with pytest.raises(PassError, match="the two graphs have no value in common"):
        qpc.compare(gm, other, DATA)
    with pytest.raises(PassError, match="there are no batches to compare on"):
        qpc.compare(gm, gm, [])


def test_refuses_graphs_of_different_models_and_batches_that_do_not_fit() -> None:
    gm = qpc.trace(nn.Conv2d(2, 4, 3), DATA[0])
    other = qpc.trace(nn.Conv2d(2, 5, 3), DATA[0])
    with pytest.raises(PassError, match=r"conv2d has shape \(4, 4, 6, 6\) in one graph and"):
        qpc.compare(gm, other, DATA)
    with pytest.raises(CalibrationError, match=r"batch 1 has shape \(1, 2, 9, 9\)"):
        qpc.compare(gm, gm, [DATA[0], torch.zeros(1, 2, 9, 9)])


def test_labels_beside_the_images_are_ignored() -> None:
    gm = qpc.trace(Net(), DATA[0])
    assert qpc.compare(gm, gm, [(DATA[0], torch.zeros(4))]).outputs[0].max_error == 0.0


# --- the figures that are reported ----------------------------------------------------------------


class Doubled(nn.Module):
    """Twice the input beside other outputs, of which one is no tensor."""

    def forward(self, x: Tensor) -> tuple[Tensor, int, dict[str, Tensor]]:
        y = x * 2.0
        return y, 7, {"negative": -y}


def scaled_by(factor: float) -> GraphModule:
    """The graph of `Doubled`, with another factor."""
    gm = qpc.trace(Doubled(), torch.zeros(1, 2))
    (node,) = (n for n in gm.graph.nodes if n.name == "mul")
    node.args = (node.args[0], factor)
    gm.recompile()
    return gm


def test_figures_are_those_of_the_definitions() -> None:
    batches = [torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])]
    result = qpc.compare(scaled_by(2.0), scaled_by(1.5), batches)
    # sum r^2 = 36 + 64 and sum (r - t)^2 = 2.25 + 4; both point the same way
    mul = next(row for row in result.layers if row.name == "mul")
    assert (mul.op, mul.max_error) == ("mul", 2.0)
    assert mul.sqnr_db == pytest.approx(10 * math.log10(100 / 6.25))
    assert mul.cosine == pytest.approx(1.0)
    assert [(row.name, row.op) for row in result.outputs] == [
        ("output 0", "output"),
        ("output 1", "output"),
    ]
    assert [row.sqnr_db for row in result.outputs] == [mul.sqnr_db] * 2


def test_opposite_and_vanishing_values_have_their_figures_too() -> None:
    x = [torch.tensor([[3.0, 4.0]])]
    opposite = qpc.compare(scaled_by(2.0), scaled_by(-2.0), x).outputs[0]
    assert opposite.cosine == pytest.approx(-1.0)
    assert opposite.sqnr_db == pytest.approx(10 * math.log10(1 / 4))
    assert opposite.max_error == 16.0
    gone = qpc.compare(scaled_by(2.0), scaled_by(0.0), x).outputs[0]
    assert (gone.sqnr_db, gone.cosine) == (0.0, 0.0)
    grown = qpc.compare(scaled_by(0.0), scaled_by(2.0), x).outputs[0]
    assert (grown.sqnr_db, grown.cosine, grown.max_error) == (-math.inf, 0.0, 8.0)


def test_the_table_prints_the_figures() -> None:
    table = str(qpc.compare(scaled_by(2.0), scaled_by(1.5), [torch.tensor([[3.0, 4.0]])]))
    assert table.splitlines() == [
        "layer     operator       SQNR dB     cosine   max error",
        "mul       mul              12.04   1.000000           2",
        "neg       neg              12.04   1.000000           2",
        "output 0  output           12.04   1.000000           2",
        "output 1  output           12.04   1.000000           2",
    ]


def test_equal_errors_are_in_the_order_of_names_and_most_counts_layers() -> None:
    result = qpc.compare(scaled_by(2.0), scaled_by(1.5), [torch.tensor([[3.0, 4.0]])])
    assert [row.name for row in result.layers] == ["mul", "neg"]
    assert len(result.table(most=1).splitlines()) == 1 + 1 + 2


def test_graphs_of_other_outputs_and_one_batch_in_place_of_many_are_refused() -> None:
    x = torch.tensor([[3.0, 4.0]])

    def one() -> GraphModule:
        gm = scaled_by(2.0)
        (output,) = (n for n in gm.graph.nodes if n.op == "output")
        output.args = (output.args[0][0],)
        gm.recompile()
        return gm

    with pytest.raises(PassError, match="one graph has 2 outputs that are tensors, the other 1"):
        qpc.compare(scaled_by(2.0), one(), [x])
    with pytest.raises(CalibrationError, match="compare needs an iterable of batches, got one map"):
        qpc.compare(one(), one(), cast(Any, {"x": x}))
