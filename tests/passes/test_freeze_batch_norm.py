from __future__ import annotations

import torch
from torch import nn

import qpc
from qpc.passes import FreezeBatchNorm
from qpc.testing import check_pass, randomized, traced

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_statistics_stay_in_training_and_parameters_learn() -> None:
    gm = traced(randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), X)
    frozen = check_pass(FreezeBatchNorm(), gm, X, exact=True)
    before = frozen.get_buffer("1.running_mean").clone()
    expected = frozen(X)
    found = qpc.set_training(frozen)(X)
    assert torch.equal(found, expected)
    found.square().mean().backward()
    assert torch.equal(frozen.get_buffer("1.running_mean"), before)
    assert frozen.get_parameter("1.weight").grad is not None


def test_batch_norms_without_statistics_are_left_alone() -> None:
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    check_pass(
        FreezeBatchNorm(),
        traced(nn.Sequential(nn.Conv2d(3, 4, 3), norm), X),
        X,
        declines=["1 (batch_norm): batch norm keeps no running statistics"],
    )
