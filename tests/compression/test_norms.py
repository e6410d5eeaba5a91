from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.compression.norms import shared_norms
from qpc.compression.parallel import World
from qpc.meta import copied
from qpc.testing import randomized, traced


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> World:
    """Two processes, of which the other one has seen nothing: sums are this one's."""
    monkeypatch.setattr(dist, "all_reduce", lambda value: None)
    return World(0, 2)


def graph() -> GraphModule:
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False))
    return traced(randomized(model), torch.randn(4, 1, 5, 5))


def test_alone_they_are_those_of_torch_with_their_gradients(alone: World) -> None:
    gm, x = graph(), torch.randn(4, 1, 5, 5)
    other = copied(gm)
    for each in (gm, other):
        qpc.set_training(each)
    expected = gm(x)
    with shared_norms(alone):
        found = other(x)
    torch.testing.assert_close(found, expected)
    for output in (expected, found):
        (output * torch.arange(output.numel()).reshape(output.shape)).sum().backward()
    for name, parameter in gm.named_parameters():
        torch.testing.assert_close(
            other.get_parameter(name).grad,
            parameter.grad,
            rtol=1e-3,
            atol=1e-2,  # sums of 1e3
        )
    for name, buffer in gm.named_buffers():
        torch.testing.assert_close(other.get_buffer(name), buffer)


def test_in_inference_nothing_is_different(alone: World) -> None:
    gm, x = graph(), torch.randn(4, 1, 5, 5)
    with shared_norms(alone):
        found = gm(x)
    assert torch.equal(found, gm(x))


def test_one_process_has_its_own() -> None:
    gm, x = qpc.set_training(graph()), torch.randn(4, 1, 5, 5)
    with shared_norms(World()):
        found = gm(x)
    assert torch.equal(found, gm(x))
