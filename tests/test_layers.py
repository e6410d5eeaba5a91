from __future__ import annotations

import pytest
import torch
from torch import nn

from qpc.layers import float_layer, integer_layer, outputs_first, own_layout
from qpc.ops.convolution import ConvTranspose2d
from qpc.ops.integer_convolution import IntConv2d, IntConvTranspose2d
from qpc.ops.linear import IntLinear
from qpc.testing import traced
from tests.generators import IntegerGraph


def test_layers_are_told_from_other_operators() -> None:
    gm = traced(
        nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.ReLU()), torch.ones(1, 4, 3, 3)
    )
    found = [view for node in gm.graph.nodes if (view := float_layer(node))]
    assert [type(view) for view in found] == [ConvTranspose2d]
    assert found[0].groups == 2
    assert not any(integer_layer(node) for node in gm.graph.nodes)


def test_integer_layers_are_told_from_float_ones() -> None:
    g = IntegerGraph()
    x = g.conv_transpose2d(g.conv2d(g.image(3, 4, 4), 5), 6, (2, 2), stride=(2, 2))
    gm = g.module(g.linear(g.clamp(x), 7))
    found = [view for node in gm.graph.nodes if (view := integer_layer(node))]
    assert [type(v) for v in found] == [IntConv2d, IntConvTranspose2d, IntLinear]
    assert found[2].groups == 1
    assert not any(float_layer(node) for node in gm.graph.nodes)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_weights_become_those_of_a_convolution(groups: int) -> None:
    """Where kernel and stride are 1, the two are the same."""
    x, weight = torch.randn(1, 4, 3, 3), torch.randn(4, 6 // groups, 1, 1)
    expected = torch.nn.functional.conv_transpose2d(x, weight, groups=groups)
    first = outputs_first(weight, 1, groups)
    torch.testing.assert_close(torch.nn.functional.conv2d(x, first, groups=groups), expected)
    assert torch.equal(own_layout(first, 1, groups), weight)


def test_other_weights_are_laid_out_so_already() -> None:
    weight = torch.randn(6, 2, 3, 3)
    assert outputs_first(weight, 0, 2) is weight
    assert own_layout(weight, 0, 2) is weight
