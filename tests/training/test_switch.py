"""A traced graph trains like the model it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.errors import ConfigError, PassError
from tests.quantizing import converted, fake_quantized, observed

X = torch.randn(16, 3, 8, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop(self.norm(self.conv(x)))
        return y


def test_in_training_it_computes_what_the_model_computes() -> None:
    model = Net()
    gm = qpc.set_training(qpc.trace(model, X))
    assert gm.training
    model.train()
    torch.manual_seed(0)
    expected = model(X)
    torch.manual_seed(0)
    torch.testing.assert_close(gm(X), expected, rtol=1e-5, atol=1e-5)
    for name in ("norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(gm.get_buffer(name), model.get_buffer(name))


def test_back_in_inference_nothing_drops_and_statistics_stay() -> None:
    gm = qpc.trace(Net(), X)
    before = qpc.fingerprint(gm)
    qpc.set_training(qpc.set_training(gm), mode=False)
    gm(X)
    assert not gm.training
    assert qpc.fingerprint(gm) == before


def test_gradient_steps_lower_the_loss() -> None:
    gm = qpc.set_training(qpc.trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(2, 4)))
    x, goal = torch.randn(32, 4), torch.rand(32, 4)
    optimizer = torch.optim.SGD(gm.parameters(), lr=0.5)
    losses = []
    for _ in range(20):
        loss = (gm(x) - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_a_graph_of_integers_is_not_trained_without_a_word() -> None:
    gm = converted(fake_quantized(nn.Linear(8, 4), X))
    with pytest.raises(
        PassError, match=r"integers cannot be trained: qpc\.quantize\.default"
    ) as caught:
        qpc.set_training(gm)
    assert caught.value.fix == (
        "train the graph of qpc.prepare_qat, or the float graph of qpc.trace, and convert it"
        " afterwards"
    )
    assert not qpc.set_training(gm, mode=False).training


def test_a_fake_quantized_graph_trains_with_its_values_rounded() -> None:
    gm = qpc.set_training(fake_quantized(nn.Linear(8, 4), X))
    weight = gm.get_parameter("weight")
    gm(X).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0


def test_an_observed_graph_trains_as_the_float_one() -> None:
    layer = nn.Linear(8, 4)
    gm = qpc.set_training(observed(layer, X))
    gm(X).square().sum().backward()
    layer(X).square().sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(gm.get_parameter("weight").grad, layer.weight.grad)


def test_a_mode_is_true_or_false() -> None:
    with pytest.raises(ConfigError, match="mode must be True or False, got str"):
        qpc.set_training(qpc.trace(nn.Linear(8, 4), X), cast(Any, "train"))


def test_frozen_batch_norms_stay_frozen_through_training_and_files(tmp_path: Path) -> None:
    gm = qpc.freeze_batch_norm(
        qpc.set_training(qpc.trace(nn.Sequential(nn.BatchNorm2d(4)), torch.randn(2, 4, 2, 2)))
    )
    qpc.save_graph(qpc.set_training(gm, mode=False), tmp_path / "graph")
    again = qpc.set_training(qpc.load_graph(tmp_path / "graph"))
    before = again.get_buffer("0.running_mean").clone()
    again(torch.randn(4, 4, 2, 2))
    assert torch.equal(again.get_buffer("0.running_mean"), before)
    again = qpc.freeze_batch_norm(again, frozen=False)
    again(torch.randn(4, 4, 2, 2))
    assert not torch.equal(again.get_buffer("0.running_mean"), before)


def test_freezing_takes_graphs_and_truth_values() -> None:
    with pytest.raises(PassError, match="freeze_batch_norm needs a traced graph, got Net"):
        qpc.freeze_batch_norm(Net())  # type: ignore[arg-type]  # the mistake on purpose
    with pytest.raises(ConfigError, match="frozen must be True or False"):
        qpc.freeze_batch_norm(qpc.trace(Net(), X), frozen=1)  # type: ignore[arg-type]  # likewise
