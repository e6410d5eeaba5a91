"""Elementwise operators tie channels at equal places; reductions and windows let them pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.channels.channel_labels import Forward, every, image_graph, reasons, seen

VALUES: dict[str, tuple[Forward, tuple[int | None, str]]] = {
    "sum of two": (lambda m, x: m.a(x) + m.b(x), (1, "abcd")),
    "sum with itself turned around": (lambda m, x: m.a(x) + m.a(x).flip(1), (1, "abba")),
    "gate of one value for each channel": (
        lambda m, x: m.a(x) * m.b(x).mean((2, 3), True),
        (1, "abcd"),
    ),
    "gate of one value for all": (lambda m, x: m.a(x) * m.a(x).mean(1, True), (1, "abcd")),
    "function": (lambda m, x: F.silu(m.a(x)), (1, "abcd")),
    "choice": (lambda m, x: torch.where(m.a(x) > 0, m.b(x), 0.5), (1, "abcd")),
    "mean over space": (lambda m, x: m.a(x).mean((2, 3)), (1, "abcd")),
    "sum over channels": (lambda m, x: m.a(x).sum(1), (None, ".")),
    "sum over everything": (lambda m, x: m.a(x).sum(), (None, ".")),
    "best place in space": (lambda m, x: m.a(x).flatten(2).argmax(2), (1, "abcd")),
    "largest in space": (lambda m, x: m.a(x).max(2).values, (1, "abcd")),
    "running sum over space": (lambda m, x: m.a(x).cumsum(2), (1, "abcd")),
    "window": (lambda m, x: F.max_pool2d(m.a(x), 2), (1, "abcd")),
    "window with places": (
        lambda m, x: F.max_pool2d(m.a(x), 2, return_indices=True)[0],
        (1, "abcd"),
    ),
    "reflected border": (lambda m, x: F.pad(m.a(x), (1, 1, 1, 1), mode="reflect"), (1, "abcd")),
    "circular border": (lambda m, x: F.pad(m.a(x), (1, 1, 1, 1), mode="circular"), (1, "abcd")),
    "gated halves": (lambda m, x: F.glu(m.a(x), 1), (1, "ab")),
    "gated halves of space": (lambda m, x: F.glu(m.a(x), 2), (1, "abcd")),
    "sampled": (
        lambda m, x: F.grid_sample(m.a(x), x[:, :2].permute(0, 2, 3, 1), align_corners=False),
        (1, "abcd"),
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_channels_of_values(name: str) -> None:
    function, expected = VALUES[name]
    assert seen(image_graph(function, b=nn.Conv2d(3, 4, 1))) == expected


def test_values_have_channels_on_several_axes() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return F.relu(m.a(x).mean((2, 3))[:, None] * m.b(x).mean((2, 3))[:, :, None])

    assert every(image_graph(forward, b=nn.Conv2d(3, 4, 1))) == {1: "efgh", 2: "abcd"}


STAY: dict[str, tuple[Forward, str]] = {
    "input": (
        lambda m, x: m.a(x)[:, :3] + x,
        "add of add meets a tensor whose size is fixed, 3 on axis 1",
    ),
    "one for all": (lambda m, x: m.a(x)[:, :1] * m.b(x), "mul of mul repeats its only channel"),
    "constant, of as many rows as a value": (
        lambda m, x: torch.ones(1, 1, 1, 1).expand_as(m.b(x)).flip(2) * m.b(x),
        "mul of mul meets a tensor whose size is fixed, 4 on axis 1",
    ),
    "sort": (lambda m, x: m.a(x).sort(1).values, "sort of sort numbers channels"),
    "argmax": (lambda m, x: m.a(x).argmax(1), "argmax of argmax numbers channels"),
    "argmax of all": (lambda m, x: m.a(x)[:1].argmax(), "argmax of argmax numbers channels"),
    "running sum": (lambda m, x: m.a(x).cumsum(1), "cumsum of cumsum runs over channels"),
    "places": (
        lambda m, x: F.grid_sample(x, m.b(x)[:, :2].permute(0, 2, 3, 1), align_corners=False),
        "grid_sampler of grid_sampler reads channels as places",
    ),
    "border of channels": (
        lambda m, x: F.pad(m.a(x).mean((2, 3))[:, None], (1, 1), mode="reflect"),
        "pad of pad repeats channels",
    ),
    "circular border of channels": (
        lambda m, x: F.pad(m.a(x).mean((2, 3))[:, None], (1, 1), mode="circular"),
        "pad of pad repeats channels",
    ),
}


@pytest.mark.parametrize("name", STAY)
def test_channels_that_stay_have_a_reason(name: str) -> None:
    function, reason = STAY[name]
    assert reason in reasons(image_graph(function, b=nn.Conv2d(3, 4, 1)))
