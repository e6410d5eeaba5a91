"""Simulations of a residual network in which some readers see values that are not rounded."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from benchmarks.residual_streams import (
    of_what_layers_read,
    rounded_values,
    with_float_sums,
    with_sums_of_16_bits,
    without,
)
from qpc.calls import aten
from qpc.recipes import post_training_quantization

X = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A block, of whose sum a linear layer may read the mean, flattened."""

    def __init__(self, *, ends: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.last = None if ends else nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.first(x).relu()
        total: Tensor = self.second(stream) + stream
        if self.last is None:
            return total
        made: Tensor = self.last(total.mean((2, 3), keepdim=True).flatten(1))
        return made


def simulation(*, ends: bool) -> GraphModule:
    torch.manual_seed(0)
    gm = qpc.trace(Residual(ends=ends).eval(), X)
    return post_training_quantization([X], effort="fast").run(gm)


def readers_of_rounded(gm: GraphModule) -> set[object]:
    return {reader.target for node in rounded_values(gm) for reader in node.users}


def test_layers_alone_read_rounded_values_also_through_moves() -> None:
    gm = simulation(ends=False)
    layers = {aten.conv2d.default, aten.reshape.default}  # which a linear layer reads
    assert readers_of_rounded(gm) == layers | {aten.add.Tensor, aten.mean.dim}
    assert readers_of_rounded(of_what_layers_read(gm)) == layers


def test_sums_alone_read_what_is_not_rounded_or_is_rounded_finely() -> None:
    gm = simulation(ends=True)
    exact, fine = with_float_sums(gm), with_sums_of_16_bits(gm)
    assert readers_of_rounded(gm) == {aten.conv2d.default, aten.add.Tensor}
    assert readers_of_rounded(fine) == readers_of_rounded(exact) == {aten.conv2d.default}
    with torch.no_grad():
        eight, sixteen, wanted = (graph(X) for graph in (gm, fine, exact))
    assert 0.0 < (sixteen - wanted).abs().max() < (eight - wanted).abs().max() / 20


def test_one_value_can_be_left_as_it_is() -> None:
    gm = simulation(ends=True)
    (stream,) = (node for node in rounded_values(gm) if len(node.users) == 2)
    left = without(gm, stream.name, sums_only=True)
    (kept,) = (node for node in rounded_values(left) if node.name == stream.name)
    assert [reader.target for reader in kept.users] == [aten.conv2d.default]
    gone = without(gm, stream.name, sums_only=False)
    assert len([node for node in rounded_values(gone) if node.users]) == 2
