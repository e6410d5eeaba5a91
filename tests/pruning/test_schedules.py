from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.channels.cost import cost
from qpc.meta import attribute
from qpc.passes import CreateMasks, PropagateMasks, RemoveChannels
from qpc.pruning.allocation import Allocation, Counts, Global, Uniform
from qpc.pruning.magnitude import L1
from qpc.pruning.schedules import Cubic, Linear, OneShot, Step, prune_iteratively
from qpc.testing import traced

X = torch.randn(2, 3, 6, 6)


def net() -> GraphModule:
    layers = [nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 60, 3), nn.ReLU()]
    return traced(nn.Sequential(*layers, nn.Flatten(), nn.Linear(240, 5)), X)


def passes(allocation: Allocation) -> Any:
    def of_step(step: Step) -> list[Pass]:
        return [CreateMasks(L1(), allocation.at(step)), PropagateMasks(), RemoveChannels()]

    return of_step


def sizes(gm: GraphModule) -> tuple[int, ...]:
    return tuple(attribute(gm, f"{layer}.weight").shape[0] for layer in (0, 3))


def test_one_shot_does_everything_at_once() -> None:
    assert OneShot(0.5).amounts() == (0.5,)


def test_linear_does_the_same_in_each_step() -> None:
    assert Linear(0.6, steps=3).amounts() == pytest.approx((0.2, 0.4, 0.6))
    assert Linear(0.6, steps=2, initial=0.2).amounts() == pytest.approx((0.4, 0.6))


def test_cubic_slows_down_towards_the_end() -> None:
    # s_f + (s_i - s_f) (1 - t / n)^3, as Zhu & Gupta have it
    found = Cubic(0.8, steps=4, initial=0.1).amounts()
    assert found == pytest.approx([0.8 - 0.7 * (1 - t / 4) ** 3 for t in range(1, 5)])
    gains = [b - a for a, b in pairwise((0.1, *found))]
    assert gains == sorted(gains, reverse=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(1.2, steps=2), "final must be from 0 to 1, got 1.2"),
        (lambda: Linear(0.2, steps=2, initial=0.3), "must ascend from 0 to 1, got 0.3 and 0.2"),
        (lambda: Cubic(0.2, steps=0), "steps must be at least 1, got 0"),
    ],
)
def test_impossible_schedules_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.thorough
def test_amounts_add_up_relative_to_the_original_model() -> None:
    gm, seen = net(), []

    def note(pruned: GraphModule, step: Step) -> None:
        seen.append((step.number, step.count, sizes(pruned)))

    prune_iteratively(gm, Linear(0.5, steps=5), passes(Uniform(0)), note)
    assert seen == [(n, 5, (40 - 4 * n, 60 - 6 * n)) for n in range(1, 6)]
    assert sizes(gm) == (40, 60)


@pytest.mark.every(2)
@pytest.mark.parametrize("allocation", [Uniform(0, of="macs"), Global(0, of="macs")])
def test_every_step_hits_its_share_of_the_original_macs(allocation: Allocation) -> None:
    gm = net()
    shares = []

    def note(pruned: GraphModule, step: Step) -> None:
        shares.append((1 - cost(pruned).macs / cost(gm).macs, step.amount))

    prune_iteratively(gm, Cubic(0.7, steps=4), passes(allocation), note)
    assert len(shares) == 4
    for reached, wanted in shares:
        assert reached == pytest.approx(wanted, abs=0.01)


def test_a_global_share_is_met_in_one_step_and_in_many() -> None:
    gm, allocation = net(), Global(0, of="units")
    once, often = (
        sizes(prune_iteratively(gm, schedule, passes(allocation)))
        for schedule in (OneShot(0.4), Linear(0.4, steps=4))
    )
    assert sum(once) == sum(often) == 60


def test_counts_are_reached_step_by_step() -> None:
    allocation, seen = Counts(channels={"0": 10, "3": 30}), []
    prune_iteratively(
        net(), Linear(1.0, steps=3), passes(allocation), lambda gm, _: seen.append(sizes(gm))
    )
    assert seen == [(30, 50), (20, 40), (10, 30)]


def test_a_step_without_anything_to_prune_is_no_error() -> None:
    pruned = prune_iteratively(net(), Linear(0.02, steps=4), passes(Uniform(0)))
    assert sizes(pruned) == (39, 59)
    assert not [name for name, _ in pruned.named_buffers() if name.startswith("masks")]


@pytest.mark.thorough
def test_the_callback_trains_in_place_or_returns_another_graph() -> None:
    def zeros(pruned: GraphModule, step: Step) -> None:
        with torch.no_grad():
            pruned.get_parameter("6.weight").zero_()

    other = net()
    found = prune_iteratively(net(), OneShot(0.5), passes(Uniform(0)), zeros)
    assert not found.get_parameter("6.weight").any()
    assert prune_iteratively(net(), OneShot(0.5), passes(Uniform(0)), lambda *_: other) is other


def test_reports_of_all_steps_are_collected() -> None:
    ctx = PassContext()
    prune_iteratively(net(), Linear(0.4, steps=2), passes(Uniform(0)), ctx=ctx)
    assert [report.name for report in ctx.reports] == [
        "create-masks",
        "propagate-masks",
        "remove-channels",
    ] * 2


@pytest.mark.thorough
def test_heads_are_counted_as_the_passes_count_them() -> None:
    seen: list[int] = []

    def none(step: Step) -> list[Pass]:
        seen.append(sum(step.baseline.units))
        return []

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 3, 8)
    gm = traced(SelfAttention(attention), x)
    for heads in ((), "*"):
        prune_iteratively(gm, OneShot(0.5), none, heads=heads)
    assert seen[1] < seen[0]


class SelfAttention(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.attention(x, x, x, need_weights=False)[0]
        return y
