from __future__ import annotations

import torch
from torch import nn

import qpc
from qpc.passes import EndTraining
from qpc.testing import check_pass, randomized, traced

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_a_graph_in_training_is_switched_to_inference() -> None:
    gm = traced(randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), X)
    expected = gm(X)
    result = qpc.Pipeline((EndTraining(),)).run(qpc.set_training(gm))
    assert torch.equal(result(X), expected)
    assert gm.training
    assert not result.training


def test_a_graph_in_inference_is_left_as_it_is() -> None:
    gm = traced(randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), X)
    ctx = qpc.PassContext()
    qpc.Pipeline((EndTraining(),)).run(gm, ctx)
    assert not ctx.reports[-1].changed
    check_pass(EndTraining(), gm, X, exact=True)
