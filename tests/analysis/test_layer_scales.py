from __future__ import annotations

import torch
from torch import nn

from qpc.analysis.layer_scales import sum_scales, weight_scales
from qpc.layers import integer_layer
from qpc.meta import attribute, info, update_info
from tests.quantizing import fake_quantized, integer


def test_products_of_the_scales_of_input_and_weights() -> None:
    layer = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    gm = integer(fake_quantized(layer, x, random=False))
    (node,) = [n for n in gm.graph.nodes if integer_layer(n) is not None]
    multiplier = attribute(gm, str(node.args[3].target))
    scales = weight_scales(node, multiplier)
    assert scales is not None
    torch.testing.assert_close(scales.float(), layer.weight.detach().abs().amax(1) / 127)
    source = info(node.args[0]).qparams
    assert source is not None
    torch.testing.assert_close(sum_scales(node, multiplier), scales * source.scale)


def test_without_a_grid_of_the_input_there_are_none() -> None:
    gm = integer(fake_quantized(nn.Linear(3, 2), torch.randn(4, 3)))
    (node,) = [n for n in gm.graph.nodes if integer_layer(n) is not None]
    update_info(node.args[0], qparams=None)
    assert weight_scales(node, torch.ones(2)) is None
