"""A graph is evaluated in float and rounded, node by node, and forgets what nobody reads."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from qpc.analysis.side_by_side import (
    SideBySide,
    decibels,
    first_samples,
    held_out,
    output_error,
    require_reference,
)
from qpc.calls import qpc_ops
from qpc.errors import CalibrationError, PassError
from qpc.testing import randomized, traced
from tests.quantizing import fake_quantized, min_max

X = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))


def test_the_rounded_side_is_the_graph_and_the_other_is_the_float_model() -> None:
    net = randomized(model())
    gm = fake_quantized(net, X, config=min_max(4, 4), random=False)
    walk = SideBySide(gm, [[X]], activations=True)
    with torch.no_grad():
        for node in gm.graph.nodes:
            if node.op != "output":
                walk.evaluate(node)
        (last,) = next(iter(reversed(gm.graph.nodes))).all_input_nodes
        torch.testing.assert_close(walk.rounded[last][0], gm(X))
        torch.testing.assert_close(walk.real[last][0], net(X))


def test_without_activations_only_weights_are_rounded() -> None:
    gm = fake_quantized(model(), X, config=min_max(2, 8))
    walk = SideBySide(gm, [[X]])
    (first,) = (n for n in gm.graph.nodes if n.op == "placeholder")
    rounded = next(n for n in first.users if n.target is qpc_ops.fake_quantize.default)
    walk.evaluate(first)
    for part in rounded.all_input_nodes[1:]:
        walk.evaluate(part)
    walk.evaluate(rounded)
    assert walk.rounded[rounded][0] is walk.real[rounded][0] is X


def test_values_are_forgotten_behind_their_last_reader() -> None:
    gm = fake_quantized(model(), X)
    walk = SideBySide(gm, [[X]])
    most = 0
    with torch.no_grad():
        for node in gm.graph.nodes:
            if node.op != "output":
                walk.evaluate(node)
                most = max(most, sum(n.op == "call_function" for n in walk.real))
                walk.release(node)
    assert most <= 3  # what a layer reads, its weight, what it makes


def test_the_error_of_the_outputs_is_relative_to_a_reference() -> None:
    net = randomized(model())
    gm = fake_quantized(net, X, config=min_max(4, 4), random=False)
    with torch.no_grad():
        error = gm(X) - net(X)
        expected = float(error.square().sum() / net(X).square().sum())
    assert output_error(gm, [[X]]) == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        gm.get_parameter("0.weight").zero_()
    assert output_error(gm, [[X]], traced(net, X)) > output_error(gm, [[X]])


def test_decibels() -> None:
    assert decibels(0.01) == pytest.approx(20.0)
    assert decibels(0.0) == math.inf


def test_the_first_samples_are_joined() -> None:
    gm = traced(model(), X)
    ((joined,),) = first_samples(gm, [X, X, X], 8, "try")
    assert joined.shape == (8, 3, 5, 5)


def test_refuses_no_batches_and_empty_ones() -> None:
    gm = traced(model(), X)
    with pytest.raises(CalibrationError, match="there are no batches to try on"):
        first_samples(gm, [], 8, "try")
    with pytest.raises(CalibrationError, match="the batches to try on hold no samples"):
        first_samples(gm, [X[:0]], 8, "try")


def test_refuses_another_graph_as_reference() -> None:
    gm = fake_quantized(model(), X)
    with pytest.raises(PassError, match="the reference of a test is not this graph in float"):
        require_reference(gm, traced(nn.Sequential(nn.Conv2d(3, 4, 3)), X), "a test")
    with pytest.raises(PassError, match="needs a traced graph, got Sequential"):
        require_reference(gm, model(), "a test")


def test_every_fourth_sample_is_held_out_if_there_are_four() -> None:
    x = torch.arange(8.0)[:, None]
    ((learned,),), ((judged,),) = held_out([[x]])
    assert learned.flatten().tolist() == [0, 1, 2, 4, 5, 6]
    assert judged.flatten().tolist() == [3, 7]
    few = [[x[:3]]]
    assert held_out(few) == (few, few)
    batches = [[x, torch.tensor(float(i))] for i in range(5)]
    assert held_out(batches) == ([*batches[:3], batches[4]], [batches[3]])
