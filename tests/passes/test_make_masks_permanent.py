from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from qpc.errors import PassError
from qpc.facts import CORE_FORM
from qpc.masks import masks, set_mask
from qpc.passes import MakeMasksPermanent, MaskWeights
from qpc.pipeline import Pipeline
from qpc.pruning.sparsity import sparsity_report
from qpc.pruning.weight_masks import WEIGHTS_MASKED
from qpc.pruning.weight_rules import Ratio
from qpc.testing import check_pass, randomized, traced

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def masked() -> GraphModule:
    model = randomized(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    return Pipeline((MaskWeights(Ratio(0.5)),)).run(traced(model, X))


def test_the_masks_go_and_the_zeros_stay() -> None:
    graph = """
        graph:
          %input_1: f32[N, 4] = input
          %linear: f32[N, 6] = aten.linear(%input_1, @0.weight, @0.bias)  # 0
          %relu: f32[N, 6] = aten.relu(%linear)  # 1
          %linear_1: f32[N, 2] = aten.linear(%relu, @2.weight, @2.bias)  # 2
          return %linear_1
    """
    result = check_pass(MakeMasksPermanent(), masked(), X, before=graph, after=graph, exact=True)
    assert list(result.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert sparsity_report(result).total.zeros == 18


def test_a_graph_without_weight_masks_is_left_alone_and_so_are_channel_masks() -> None:
    gm = traced(nn.Linear(4, 6), X)
    set_mask(gm, "weight", 0, torch.zeros(6, dtype=torch.bool))
    assert len(list(masks(check_pass(MakeMasksPermanent(), gm, X)))) == 1


def test_weights_that_training_has_moved_are_noticed() -> None:
    gm = masked()
    gm.get_parameter("0.weight").data.fill_(1)
    with pytest.raises(PassError, match=r"12 masked weights of '0\.weight' are not 0; call remask"):
        Pipeline((MakeMasksPermanent(),), {CORE_FORM, WEIGHTS_MASKED}).run(gm)
