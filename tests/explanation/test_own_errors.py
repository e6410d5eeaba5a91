from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

import qpc
from qpc.explanation.float_runs import all_values, nodes_of_values
from qpc.explanation.one_operator import OneOperator
from qpc.explanation.own_errors import measurable, own_errors
from tests.explanation.faults import images


class Normed(nn.Module):
    """Batch norms that are folded, and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        for norm in (self.norm, self.last):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.uniform_()
            norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.last(self.inner(x))).relu()
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


@pytest.fixture(scope="module")
def stages() -> tuple[GraphModule, GraphModule]:
    torch.manual_seed(0)
    gm = qpc.trace(Normed().eval(), images(1))
    return gm, qpc.quantize(gm, [images(8, 0)])


class WithError(Interpreter):
    """The whole float network with an error added to one value."""

    def __init__(self, gm: GraphModule, name: str, error: Tensor) -> None:
        super().__init__(gm)
        self._name, self._error = name, error

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        return value + self._error if n.name == self._name else value


def test_figures_are_those_of_the_whole_network_run_once_for_each_operator(
    stages: tuple[GraphModule, GraphModule],
) -> None:
    gm, integer = stages
    batch = images(5)
    found = own_errors(gm, integer, [batch])
    with torch.no_grad():
        values, places = all_values(gm, [batch]), nodes_of_values(gm)
        exact = gm(batch)
        for row, node in zip(found.operators, measurable(gm, integer), strict=True):
            error = OneOperator(gm, integer, places, values, node).error()
            other = WithError(gm, row.value, error).run(batch)
            noise = float((other - exact).square().sum() / exact.square().sum())
            assert row.noise == pytest.approx(noise, rel=2e-2)
            local = float(error.square().sum() / values[row.value].square().sum())
            # A value on the border of two steps may be rounded to the other one.
            assert row.local_noise == pytest.approx(local, rel=2e-2)
            assert row.span[1] == pytest.approx(max(float(values[row.value].max()), 0.0))


def test_without_much_to_spend_the_first_sample_alone_goes_through_the_rest(
    stages: tuple[GraphModule, GraphModule],
) -> None:
    gm, integer = stages
    batches = [images(3), images(2, 5)]
    few, first, all_ = (
        own_errors(gm, integer, batches, most_macs=0),
        own_errors(gm, integer, [batches[0][:1]]),
        own_errors(gm, integer, batches),
    )
    assert (few.samples, few.own_samples) == (5, 1)
    assert (all_.samples, all_.own_samples) == (5, 5)
    for a, b, c in zip(few.operators, first.operators, all_.operators, strict=True):
        assert a.noise == pytest.approx(b.noise, rel=1e-2)
        assert a.span == pytest.approx(c.span, rel=1e-5)
        assert (a.clipped, a.reach) == pytest.approx((c.clipped, c.reach), rel=1e-5)
    assert few.noise == pytest.approx(all_.noise, rel=1e-4)
    assert few.varying == pytest.approx(all_.varying, rel=1e-4)


def test_values_of_the_whole_integer_model_are_compared_like_qpc_compare_does(
    stages: tuple[GraphModule, GraphModule],
) -> None:
    gm, integer = stages
    found = own_errors(gm, integer, [images(4)]).together
    rows = {row.value: row for row in qpc.compare(gm, integer, [images(4)]).layers}
    assert rows.keys() == found.keys() - {"x"}  # the input, rounded
    for name, row in rows.items():
        assert found[name] == pytest.approx(10 ** (-row.sqnr_db / 10), rel=1e-3)


def test_what_is_only_moved_behind_a_layer_that_ends_in_float_is_measured_too() -> None:
    torch.manual_seed(0)
    batches = [torch.randn(4, 6, 16)]
    gm = qpc.trace(nn.Sequential(nn.LayerNorm(16), nn.Conv1d(6, 8, 3)), batches[0])
    found = own_errors(gm, qpc.quantize(gm, batches), batches)
    (only,) = found.operators
    assert only.noise == pytest.approx(found.noise)
