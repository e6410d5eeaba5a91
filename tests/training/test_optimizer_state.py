"""Momentum survives the removal of channels, and whatever else passes do to parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.optim import Optimizer

import qpc
from qpc.channels.masks import MASKS_PROPAGATED
from qpc.errors import ConfigError, PassError
from qpc.facts import CORE_FORM
from qpc.lineage import lineage
from qpc.masks import masks
from qpc.passes import CreateMasks, PropagateMasks, RemoveChannels
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1
from qpc.training import carry_optimizer

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A residual block, a depthwise convolution, a concat and a tied bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(16, 5)
        self.deep.bias = self.conv.bias

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(y + self.conv(y))
        result: Tensor = self.head(torch.cat([y, self.deep(y)], 1).mean((2, 3)))
        return result


OPTIMIZERS: dict[str, Callable[[GraphModule], Optimizer]] = {
    "momentum": lambda gm: torch.optim.SGD(gm.parameters(), lr=0.05, momentum=0.9, nesterov=True),
    "plain": lambda gm: torch.optim.SGD(gm.parameters(), lr=0.05),
    "adamw": lambda gm: torch.optim.AdamW(gm.parameters(), lr=0.01, amsgrad=True),
    "rmsprop": lambda gm: torch.optim.RMSprop(gm.parameters(), centered=True),
    "adagrad": lambda gm: torch.optim.Adagrad(gm.parameters()),
    "rprop": lambda gm: torch.optim.Rprop(gm.parameters()),
}


@cache
def traced_net() -> GraphModule:
    torch.manual_seed(0)
    return qpc.trace(Net().eval(), X)


def step(gm: GraphModule, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    gm(X).square().mean().backward()
    optimizer.step()


def trained(make: Callable[[GraphModule], Optimizer]) -> tuple[GraphModule, Optimizer]:
    gm = copy.deepcopy(traced_net())
    optimizer = make(gm)
    for _ in range(2):
        step(gm, optimizer)
    return gm, optimizer


@pytest.mark.parametrize("name", ["momentum", "plain", "adamw"])
def test_training_goes_on_as_if_dead_channels_had_stayed(name: str) -> None:
    """Channels without weights, gradients or momentum teach nothing: without them all is equal."""
    gm, optimizer = trained(OPTIMIZERS[name])
    marked = kill(gm, optimizer)
    pruned = qpc.Pipeline((RemoveChannels(),), frozenset({CORE_FORM, MASKS_PROPAGATED})).run(marked)
    assert size(pruned) < 0.7 * size(gm)
    follower = carry_optimizer(twin(optimizer, OPTIMIZERS[name], gm), gm, pruned)
    for _ in range(3):
        step(gm, optimizer)
        step(pruned, follower)
    torch.testing.assert_close(pruned(X), gm(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_sliced_like_its_parameter(name: str) -> None:
    """Each state tensor is made equal to its parameter before: so it must be afterwards."""
    gm, optimizer = trained(OPTIMIZERS[name])
    steps = disguise(optimizer)
    pruned = qpc.prune(gm, L1(), Uniform(0.4))
    carried = carry_optimizer(optimizer, gm, pruned)
    assert carried is optimizer
    members = [p for group in optimizer.param_groups for p in group["params"]]
    assert members == list(pruned.parameters())
    assert check_disguise(optimizer) == steps


def test_two_removals_in_a_row_and_a_graph_from_a_file(tmp_path: Path) -> None:
    gm, optimizer = trained(OPTIMIZERS["adamw"])
    disguise(optimizer)
    pruned = qpc.prune(qpc.prune(gm, L1(), Uniform(0.3)), L1(), Uniform(0.3))
    qpc.save_graph(pruned, tmp_path / "graph")
    again = qpc.load_graph(tmp_path / "graph")
    assert dict(lineage(again)) == dict(lineage(pruned))
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in pruned.named_parameters()]
    carry_optimizer(optimizer, gm, again)
    check_disguise(optimizer)


def test_removal_in_between_two_pruned_graphs() -> None:
    first = qpc.prune(traced_net(), L1(), Uniform(0.3))
    optimizer = OPTIMIZERS["momentum"](first)
    step(first, optimizer)
    disguise(optimizer)
    carry_optimizer(optimizer, first, qpc.prune(first, L1(), Uniform(0.4)))
    check_disguise(optimizer)


def test_factored_moments_lose_channels_on_the_axis_that_they_have() -> None:
    gm, optimizer = trained(lambda gm: torch.optim.Adafactor(gm.parameters()))
    pruned = qpc.prune(gm, L1(), Uniform(0.4))
    before = optimizer.state[gm.get_parameter("head.weight")]
    carry_optimizer(optimizer, gm, pruned)
    after = optimizer.state[pruned.get_parameter("head.weight")]
    kept = list(lineage(pruned)["head.weight", 1].kept)
    assert torch.equal(after["row_var"], before["row_var"])
    assert torch.equal(after["col_var"], before["col_var"][:, kept])
    step(pruned, optimizer)


def test_momentum_goes_from_the_float_graph_to_the_one_that_trains_with_rounding() -> None:
    gm, optimizer = trained(OPTIMIZERS["momentum"])
    disguise(optimizer)
    qat = qpc.prepare_qat(gm, [X])
    with pytest.raises(PassError, match=r"2 parameters .* not in `after`: 'norm.weight'") as caught:
        carry_optimizer(optimizer, gm, qat)
    assert caught.value.fix is not None
    assert 'lost="drop"' in caught.value.fix
    carry_optimizer(optimizer, gm, qat, lost="drop")
    trained_now = {p for group in optimizer.param_groups for p in group["params"]}
    assert trained_now == set(qat.parameters())
    scale = next(p for n, p in qat.named_parameters() if n.startswith("quantizers"))
    assert scale not in optimizer.state
    assert "momentum_buffer" in optimizer.state[qat.get_parameter("conv.weight")]
    step(qpc.set_training(qat), optimizer)


def test_learned_grids_keep_their_momentum_when_channels_go() -> None:
    qat = qpc.prepare_qat(traced_net(), [X], learn=qpc.passes.LearnGrids(zero_points=True))
    optimizer = OPTIMIZERS["adamw"](qat)
    step(qat, optimizer)
    disguise(optimizer)
    pruned = qpc.prune(qat, L1(), Uniform(0.4))
    carry_optimizer(optimizer, qat, pruned)
    check_disguise(optimizer)
    sliced = {name for name, _ in lineage(pruned) if name.endswith("scale")}
    assert sliced
    assert all(pruned.get_parameter(n) in optimizer.state for n in sliced)


def test_convolutions_over_one_axis_get_their_height() -> None:
    x = torch.randn(2, 3, 16)
    gm = qpc.trace(nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3)), x)
    optimizer = OPTIMIZERS["momentum"](gm)
    gm(x).sum().backward()
    optimizer.step()
    disguise(optimizer)
    qat = qpc.prepare_qat(qpc.prune(gm, L1(), Uniform(0.5)), [x])
    carry_optimizer(optimizer, gm, qat)
    weight = qat.get_parameter("0.weight")
    assert weight.shape == (4, 3, 1, 3)
    assert optimizer.state[weight]["momentum_buffer"].shape == weight.shape
    check_disguise(optimizer)


def test_a_schedule_of_the_learning_rate_goes_on() -> None:
    gm, optimizer = trained(OPTIMIZERS["momentum"])
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    carry_optimizer(optimizer, gm, qpc.prune(gm, L1(), Uniform(0.4)))
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.025


def test_groups_keep_their_options_and_new_parameters_may_have_a_group_of_their_own() -> None:
    gm = traced_net()
    biases = [(n, p) for n, p in gm.named_parameters() if n.endswith("bias")]
    others = [(n, p) for n, p in gm.named_parameters() if not n.endswith("bias")]
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.1}, {"params": biases}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    qat = qpc.prepare_qat(gm, [X])
    carry_optimizer(optimizer, gm, qat, lost="drop", fresh={"lr": 0.01})
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0, 0]
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.1, 0.01]
    for group in optimizer.param_groups:
        assert group["params"] == [qat.get_parameter(name) for name in group["param_names"]]
    assert "stem.bias" in optimizer.param_groups[2]["param_names"]  # made by folding
    assert len(optimizer.param_groups[1]["params"]) == len(biases) - 1  # norm.bias was folded


def test_frozen_parameters_stay_out() -> None:
    gm = copy.deepcopy(traced_net())
    gm.get_parameter("stem.weight").requires_grad_(False)
    optimizer = torch.optim.SGD([gm.get_parameter("head.weight")], lr=0.1)
    pruned = carry_optimizer(optimizer, gm, qpc.prune(gm, L1(), Uniform(0.4)))
    assert len(pruned.param_groups[0]["params"]) == 1


# --- mistakes -------------------------------------------------------------------------------------


def test_a_graph_that_was_not_made_of_the_other_is_refused_and_nothing_changes() -> None:
    gm, optimizer = trained(OPTIMIZERS["momentum"])
    pruned = qpc.prune(gm, L1(), Uniform(0.4))
    pruned.meta.clear()  # as if somebody else had sliced it
    with pytest.raises(
        PassError, match=r"has shape .* in `before` and .* in `after`, and which channels were rem"
    ):
        carry_optimizer(optimizer, gm, pruned)
    assert optimizer.param_groups[0]["params"] == list(gm.parameters())
    assert len(optimizer.state) == len(list(gm.parameters()))


def test_an_optimizer_of_another_graph_is_refused() -> None:
    gm, optimizer = trained(OPTIMIZERS["momentum"])
    other = copy.deepcopy(gm)
    text = r"trains a tensor that is no parameter of `before`: number 0, of shape \[8, 3, 3, 3\]"
    with pytest.raises(PassError, match=text):
        carry_optimizer(optimizer, other, other)


def test_state_that_has_no_channels_is_refused_by_name() -> None:
    gm, optimizer = trained(OPTIMIZERS["momentum"])
    pruned = qpc.prune(gm, L1(), Uniform(0.4))
    for value, what in ((torch.zeros(7), r"a tensor of shape \[7\]"), ([1.0], "a list")):
        optimizer.state[gm.get_parameter("conv.weight")]["sketch"] = value
        text = f"the state 'sketch' of 'conv.weight' is {what}: which of it belongs"
        with pytest.raises(PassError, match=text):
            carry_optimizer(optimizer, gm, pruned)
    carry_optimizer(optimizer, gm, copy.deepcopy(gm))  # no channel is gone: it stays as it is


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"optimizer": nn.Linear(1, 1)}, "optimizer must be a torch.optim.Optimizer, got Linear"),
        ({"lost": "keep"}, "lost must be 'refuse' or 'drop', got 'keep'"),
        ({"fresh": 0.1}, "fresh must be options of a group, by name, or None, got float"),
    ],
)
def test_other_mistakes(options: dict[str, Any], text: str) -> None:
    gm, optimizer = trained(OPTIMIZERS["plain"])
    with pytest.raises(ConfigError, match=text):
        carry_optimizer(**{"optimizer": optimizer, "before": gm, "after": gm, **options})


# --- helpers --------------------------------------------------------------------------------------


def size(gm: GraphModule) -> int:
    return sum(p.numel() for p in gm.parameters())


def disguise(optimizer: Optimizer) -> dict[str, object]:
    """Make each tensor of state a copy of its parameter; the numbers that are none."""
    numbers: dict[str, object] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim():
                value.copy_(parameter.detach())
            elif value is not None:
                numbers[key] = float(value)
    return numbers


def check_disguise(optimizer: Optimizer) -> dict[str, object]:
    """Parameters did not change since: what is left of state is what is left of them."""
    numbers: dict[str, object] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim():
                assert torch.equal(value, parameter)
            elif value is not None:
                numbers[key] = float(value)
    return numbers


def twin(
    optimizer: Optimizer, make: Callable[[GraphModule], Optimizer], gm: GraphModule
) -> Optimizer:
    """Another optimizer of the same parameters in the same state."""
    made = make(gm)
    made.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return made


def kill(gm: GraphModule, optimizer: Optimizer) -> GraphModule:
    """A copy with some channels marked, which are made zero in both, and in the state."""
    marked = qpc.Pipeline((CreateMasks(L1(), Uniform(0.4)), PropagateMasks())).run(gm)
    there = dict(gm.named_parameters(remove_duplicate=False))
    for name, axis, remove in masks(marked):
        if name in there:
            state = optimizer.state.get(there[name], {}).values()
            values = [v for v in state if isinstance(v, Tensor) and v.dim()]
            for tensor in (there[name], marked.get_parameter(name), *values):
                tensor.detach().index_fill_(axis, remove.nonzero().flatten(), 0.0)
    return marked
