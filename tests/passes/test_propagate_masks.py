"""Masks are extended to whole units; what must stay is declined with the reason."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.facts import CORE_FORM
from qpc.masks import MASKED, masks, set_mask
from qpc.passes import PropagateMasks


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.relu(self.first(x)))
        return y


class Heads(nn.Module):
    """Attention of two heads with four channels each."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(3, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(2, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = torch.softmax(q @ k.transpose(2, 3), 3) @ v
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


def marked(size: int, *channels: int) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(channels)] = True
    return mask


def propagate(
    gm: GraphModule, pass_: PropagateMasks
) -> tuple[dict[tuple[str, int], list[int]], qpc.PassContext]:
    ctx = qpc.PassContext()
    result = qpc.Pipeline((pass_,), frozenset({CORE_FORM, MASKED})).run(gm, ctx)
    return {(n, a): m.nonzero().flatten().tolist() for n, a, m in masks(result)}, ctx


def test_the_consumer_loses_what_the_producer_loses() -> None:
    gm = qpc.trace(Chain(), torch.randn(1, 3, 4, 4))
    set_mask(gm, "first.weight", 0, marked(4, 1, 3))
    found, ctx = propagate(gm, PropagateMasks())
    assert found == {
        ("first.weight", 0): [1, 3],
        ("first.bias", 0): [1, 3],
        ("last.weight", 1): [1, 3],
    }
    assert ctx.reports[0].summary == "2 of 2 masked units can go"


def test_outputs_stay_unless_they_are_asked_for() -> None:
    gm = qpc.trace(Chain(), torch.randn(1, 3, 4, 4))
    set_mask(gm, "last.weight", 0, marked(2, 0))
    found, ctx = propagate(gm, PropagateMasks())
    assert not any(found.values())
    assert [str(r) for r in ctx.declined] == [
        "last: 1 masked channels stay: it reaches the output of the graph"
    ]
    found, _ = propagate(gm, PropagateMasks(prune_outputs=True))
    assert found == {("last.weight", 0): [0], ("last.bias", 0): [0]}


def test_the_last_channel_of_a_tensor_stays() -> None:
    gm = qpc.trace(Chain(), torch.randn(1, 3, 4, 4))
    set_mask(gm, "first.weight", 0, marked(4, 0, 1, 2, 3))
    found, ctx = propagate(gm, PropagateMasks())
    assert found["first.weight", 0] == [1, 2, 3]
    assert [r.text for r in ctx.declined] == ["the last channels of a tensor stay"]


def test_split_channels_go_inside_the_heads_or_by_whole_heads() -> None:
    gm = qpc.trace(Heads(), torch.randn(1, 5, 3))
    set_mask(gm, "q.weight", 0, marked(8, 1))
    inside, _ = propagate(gm, PropagateMasks())
    assert inside["q.weight", 0] == inside["k.weight", 0] == [1, 5]
    assert ("v.weight", 0) not in inside
    whole, _ = propagate(gm, PropagateMasks(heads=("*",)))
    assert whole["q.weight", 0] == whole["v.weight", 0] == [0, 1, 2, 3]
