from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.compression import epochs
from qpc.compression.epochs import Keeper
from qpc.compression.parallel import World
from qpc.meta import copied
from qpc.testing import traced
from tests.compression.running import inputs


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "_PAUSE", 0.0)


def graph() -> GraphModule:
    return traced(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), inputs())


def step(gm: GraphModule, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    gm(inputs() + torch.rand(48, 6)).square().sum().backward()
    optimizer.step()


def begun(gm: GraphModule) -> torch.optim.Optimizer:
    qpc.set_training(gm)
    return torch.optim.SGD(gm.parameters(), lr=0.01, momentum=0.9)


def test_a_step_goes_on_with_weights_momentum_and_random_numbers(tmp_path: Path) -> None:
    gm, generator = graph(), torch.Generator().manual_seed(1)
    other = copied(gm)
    optimizer, keeper = begun(gm), Keeper(tmp_path, "round-1.2-qat", World())
    assert keeper.restore(gm, optimizer, None, {"own": generator}, {}) == 0
    step(gm, optimizer)
    keeper.save(1, gm, optimizer, None, {"own": generator}, {})
    step(gm, optimizer)
    drawn = torch.rand(2, generator=generator)

    second, again = begun(other), torch.Generator()
    torch.manual_seed(99)
    keeper = Keeper(tmp_path, "round-1.2-qat", World())
    assert keeper.restore(other, second, None, {"own": again}, {}) == 1
    step(other, second)
    assert torch.equal(torch.rand(2, generator=again), drawn)
    for name, value in gm.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_what_was_frozen_stays_frozen(tmp_path: Path) -> None:
    gm = graph()
    optimizer = begun(gm)
    qpc.set_training(gm, mode=False)  # such as norms after some epochs
    Keeper(tmp_path, "a", World()).save(3, gm, optimizer, None, {}, {})
    other = graph()
    Keeper(tmp_path, "a", World()).restore(other, begun(other), None, {}, {})
    assert qpc.format_graph(other) == qpc.format_graph(gm)


def test_another_step_s_epochs_are_not_taken(tmp_path: Path) -> None:
    gm = graph()
    optimizer = begun(gm)
    Keeper(tmp_path, "a", World()).save(1, gm, optimizer, None, {}, {})
    assert Keeper(tmp_path, "b", World()).restore(gm, optimizer, None, {}, {}) == 0
    assert Keeper(None, "a", World()).restore(gm, optimizer, None, {}, {}) == 0


def test_short_epochs_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "_PAUSE", 1e6)
    gm = graph()
    Keeper(tmp_path, "a", World()).save(1, gm, begun(gm), None, {}, {})
    assert list(tmp_path.iterdir()) == []
