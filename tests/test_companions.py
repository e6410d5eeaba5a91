from __future__ import annotations

import copy

import torch
from torch import nn

from qpc.companions import elementwise_companions, parameter_of
from qpc.edit import Editor
from qpc.masks import set_mask
from qpc.pruning.weight_masks import add_weight_mask
from qpc.testing import traced


def test_companions_name_the_parameter_they_belong_to() -> None:
    assert parameter_of("weight_masks.layer.0.weight") == "layer.0.weight"
    assert parameter_of("masks.layer.0.weight.axis_1") == "layer.0.weight"
    assert parameter_of("layer.0.running_mean") is None


def test_companions_survive_clearing_up_copying_and_saving() -> None:
    gm = traced(nn.Sequential(nn.Linear(3, 2)), torch.randn(2, 3))
    add_weight_mask(gm, "0.weight", torch.eye(2, 3, dtype=torch.bool))
    set_mask(gm, "0.weight", 0, torch.tensor([True, False]))
    gm.register_buffer("unread", torch.zeros(1))
    Editor(gm, "test").drop_unused()
    names = ["0.weight", "0.bias", "weight_masks.0.weight", "masks.0.weight.axis_0"]
    assert list(copy.deepcopy(gm).state_dict()) == names
    assert elementwise_companions(gm, "0.weight") == ["weight_masks.0.weight"]


def test_companions_go_with_their_parameter() -> None:
    gm = traced(nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU()), torch.randn(2, 3))
    add_weight_mask(gm, "0.weight", torch.eye(3, dtype=torch.bool))
    linear = next(n for n in gm.graph.nodes if n.name == "linear")
    linear.replace_all_uses_with(linear.all_input_nodes[0])
    Editor(gm, "test").drop_unused()
    assert list(gm.state_dict()) == []
