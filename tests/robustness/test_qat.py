"""What trained is what is deployed: over layers, bits, grids, and ways to move them."""

from __future__ import annotations

from itertools import product
from typing import Literal, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.calls import arguments, qpc_ops
from qpc.passes import FollowRanges, LearnGrids
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1
from qpc.quant.config import QuantConfig
from qpc.testing import randomized, traced
from tests.quantizing import min_max

X = torch.randn(64, 4, 6, 6, generator=torch.Generator().manual_seed(0))
GOAL = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
MOVES = {
    "learned": LearnGrids(zero_points=True),
    "following": FollowRanges(decay=0.5),
    "frozen": None,
    "mixed": (LearnGrids(activations=False), FollowRanges(weights=False)),
}


class Branches(nn.Module):
    """Every kind of layer, with and without a batch norm; a sum and a concat."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.grouped = nn.Sequential(
            nn.Conv2d(8, 4, 1, groups=2, bias=False), nn.BatchNorm2d(4), nn.ReLU6()
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(12, 4, 2, stride=2, groups=2), nn.BatchNorm2d(4, affine=False)
        )
        self.line = nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.depthwise(x) + x)
        x = torch.relu(self.up(torch.cat([x, self.grouped(x)], 1)))
        y: Tensor = self.head(self.line(x.flatten(2)).mean(2))
        return y


def model() -> nn.Module:
    """With a channel that its batch norm turns off, and one that it turns round."""
    made = randomized(Branches())
    with torch.no_grad():
        made.get_parameter("stem.1.weight")[:2] = torch.tensor([0.0, -0.7])
    return made


GM = traced(model(), X)


def trained(gm: GraphModule, steps: int = 6) -> GraphModule:
    """With the last third on frozen statistics and ranges."""
    optimizer = torch.optim.SGD(gm.parameters(), lr=0.01, momentum=0.9)
    qpc.set_training(gm)
    for step in range(steps):
        if step == 2 * steps // 3:
            qpc.freeze_ranges(qpc.freeze_batch_norm(gm))
        loss = (gm(X) - GOAL).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in gm.parameters())
    return qpc.set_training(gm, mode=False)


def off(gm: GraphModule, integers: GraphModule) -> Tensor:
    """By how many steps of the output's grid integers are off."""
    last = next(n for n in integers.graph.nodes if n.target is qpc_ops.dequantize.default)
    steps: Tensor = ((integers(X) - gm(X)) / arguments(last)["scale"]).abs().round()
    return steps


BatchNorm: TypeAlias = Literal["folded", "simulated"]
EVERY = list(product(MOVES, ("folded", "simulated"), (True, False), (8, 4, 2)))
SOME = EVERY[:: len(MOVES) * 2 + 1]


def check(moves: str, batch_norm: BatchNorm, per_channel: bool, bits: int, symmetric: bool) -> None:
    config = min_max(bits, bits, per_channel=per_channel, symmetric=symmetric)
    learn = MOVES[moves]
    if symmetric and moves == "learned":
        learn = LearnGrids()
    gm = trained(qpc.prepare_qat(GM, [X], config, learn=learn, batch_norm=batch_norm))
    found = off(gm, qpc.convert(gm))
    assert found.max() <= 1
    assert (found == 0).float().mean() >= 0.999 - 1 / found.numel()


@pytest.mark.every(4)
@pytest.mark.parametrize(("moves", "batch_norm", "per_channel", "bits"), SOME)
def test_integers_are_those_of_the_rounded_graph(
    moves: str, batch_norm: BatchNorm, per_channel: bool, bits: int
) -> None:
    check(moves, batch_norm, per_channel, bits, symmetric=bits == 4)


@pytest.mark.slow
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("batch_norm", ["folded", "simulated"])
@pytest.mark.parametrize("moves", MOVES)
def test_integers_are_those_of_the_rounded_graph_everywhere(
    moves: str, batch_norm: BatchNorm, per_channel: bool, bits: int
) -> None:
    for symmetric in (False, True):
        check(moves, batch_norm, per_channel, bits, symmetric)


@pytest.mark.tvm
@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", ["folded", "simulated"])
def test_machine_code_has_the_bits_of_the_integers(batch_norm: BatchNorm) -> None:
    config = QuantConfig.of_bits(4, 4, first_and_last=8)
    integers = qpc.convert(trained(qpc.prepare_qat(GM, [X], config, batch_norm=batch_norm)))
    compiled = qpc.compile(integers, batch_sizes=(len(X),))
    assert torch.equal(torch.as_tensor(compiled(X)), integers(X))


@pytest.mark.thorough
@pytest.mark.parametrize("per_channel", [True, False])
def test_channels_go_in_the_middle_of_training(per_channel: bool) -> None:
    config = min_max(per_channel=per_channel)
    for learn in (LearnGrids(), FollowRanges()):
        gm = qpc.prepare_qat(GM, [X], config, batch_norm="simulated", learn=learn)
        smaller = qpc.prune(trained(gm, 3), L1(), Uniform(0.5))
        assert smaller.get_buffer("stem.1.running_var").numel() < 8
        smaller = trained(smaller, 3)
        assert off(smaller, qpc.convert(smaller)).max() <= 1
