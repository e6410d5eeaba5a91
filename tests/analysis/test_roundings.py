"""What stands behind calls that round."""

from __future__ import annotations

import torch
from torch import nn
from torch.fx import Node

from qpc import prepare_qat
from qpc.analysis.roundings import grid_tensor, rounding_of, unrounded
from qpc.calls import qpc_ops
from qpc.layers import float_layer
from qpc.testing import randomized, traced
from tests.quantizing import min_max
from tests.small_models import only

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
GM = prepare_qat(
    traced(randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())), X),
    [X],
    min_max(per_channel=False),
    batch_norm="simulated",
)
LAYER = float_layer(only(GM, torch.ops.aten.conv2d.default))


def test_a_step_for_folded_weights_is_read_through_what_unfolds_it() -> None:
    assert LAYER is not None
    assert grid_tensor(LAYER.weight, "scale").target == "quantizers.conv2d_weight.scale"
    bias = only(GM, torch.ops.aten.batch_norm.default).args[2]
    assert isinstance(bias, Node)
    assert unrounded(LAYER.weight).target == "0.weight"
    assert bias.target is qpc_ops.round_bias.default
    assert unrounded(bias).target == "1.bias"


def test_a_rounding_is_what_the_call_computes() -> None:
    assert LAYER is not None
    found = rounding_of(GM, LAYER.weight)
    steps = qpc_ops.unfold_step.default(
        GM.get_parameter("quantizers.conv2d_weight.scale").detach(),
        GM.get_parameter("1.weight").detach(),
        GM.get_buffer("1.running_var"),
        1e-5,
    )
    assert torch.equal(found.step, steps)
