"""Layers consume channels on one axis of their weight and make others on the other axis."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qpc.channels.groups import analyze_channels
from qpc.channels.masks import masked_atoms
from qpc.passes import CreateMasks, PropagateMasks, RemoveChannels
from qpc.pipeline import Pipeline
from qpc.pruning.allocation import Global
from qpc.pruning.magnitude import L1
from qpc.testing import randomized, traced
from tests.channels.channel_labels import (
    Forward,
    every,
    flowed,
    image_graph,
    reasons,
    seen,
    token_graph,
)
from tests.pruning_oracle import masked_output


def axes(gm: torch.fx.GraphModule, name: str) -> dict[int, str]:
    """The channels of each axis of a parameter, in letters."""
    flow = flowed(gm)
    return {
        axis: "".join(
            "." if atom < 0 else chr(ord("a") + atom) for atom in flow.atoms.find(a.labels)
        )
        for (owner, axis), a in sorted(flow.axes.items())
        if owner == name
    }


LAYERS: dict[str, tuple[nn.Module, str, dict[int, str]]] = {
    "convolution": (nn.Conv2d(4, 2, 1), "ef", {0: "ef", 1: "abcd"}),
    "transposed": (nn.ConvTranspose2d(4, 2, 1), "ef", {0: "abcd", 1: "ef"}),
    "depthwise": (nn.Conv2d(4, 4, 1, groups=4), "abcd", {0: "abcd"}),
    "depthwise with two outputs": (nn.Conv2d(4, 8, 1, groups=4), "aabbccdd", {0: "aabbccdd"}),
    "transposed depthwise": (nn.ConvTranspose2d(4, 4, 1, groups=4), "abcd", {0: "abcd"}),
    "two groups": (nn.Conv2d(4, 6, 1, groups=2), "efgefg", {0: "efgefg", 1: "ab"}),
    "two groups transposed": (
        nn.ConvTranspose2d(4, 6, 1, groups=2),
        "efgefg",
        {0: "abab", 1: "efg"},
    ),
    "batch norm": (nn.BatchNorm2d(4), "abcd", {0: "abcd"}),
    "instance norm": (nn.InstanceNorm2d(4, affine=True), "abcd", {0: "abcd"}),
    "group norm of one": (nn.GroupNorm(1, 4), "abcd", {0: "abcd"}),
    "group norm of two": (nn.GroupNorm(2, 4), "aacc", {0: "aacc"}),
    "layer norm": (nn.LayerNorm((4, 4, 2)), "abcd", {0: "abcd"}),
    "prelu": (nn.PReLU(4), "abcd", {0: "abcd"}),
    "prelu of one slope": (nn.PReLU(1), "abcd", {}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_channels_of_a_layer(name: str) -> None:
    layer, out, weight = LAYERS[name]
    gm = image_graph(lambda m, x: m.b(m.a(x)), b=layer)
    assert seen(gm) == (1, out)
    assert axes(gm, "b.weight") == weight
    if isinstance(layer, nn.BatchNorm2d):
        assert axes(gm, "b.running_var") == {0: "abcd"}


def test_a_linear_layer_may_read_rows_of_its_weight() -> None:
    gm = token_graph(lambda m, x: F.linear(m.a(x), m.w[2:4]), w=torch.randn(6, 4))
    assert axes(gm, "w") == {0: "efghij", 1: "abcd"}
    assert seen(gm) == (2, "gh")


def test_a_linear_layer_may_read_its_weight_transposed() -> None:
    gm = token_graph(lambda m, x: F.linear(m.a(x), m.w.t()), w=torch.randn(4, 3))
    assert axes(gm, "w") == {0: "abcd", 1: "efg"}
    assert seen(gm) == (2, "efg")


def test_channels_on_another_axis_pass_layers_that_mix_tokens() -> None:
    for function in (
        lambda m, x: m.t(m.a(x).transpose(1, 2)),
        lambda m, x: m.c(m.a(x)).transpose(1, 2),
        lambda m, x: m.a(x).transpose(1, 2) @ m.w,
    ):
        gm = token_graph(function, t=nn.Linear(3, 2), c=nn.Conv1d(3, 2, 1), w=torch.randn(3, 2))
        assert every(gm) == {1: "abcd", 2: "ef"}
        assert reasons(gm) == set()


def test_channels_on_another_axis_stay_where_windows_reach_over_several() -> None:
    gm = token_graph(lambda m, x: m.c(m.a(x)), c=nn.Conv1d(3, 2, 3, padding=1))
    assert reasons(gm) == {"conv1d of c (conv1d) needs channels on another axis"}


def test_the_features_of_an_embedding_are_channels_and_its_rows_stay() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(5, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.words(x))
            return y

    found = analyze_channels(traced(Words(), torch.randint(0, 5, (2, 3))))
    group = found.group_of("words.weight", 1)
    assert group is not None
    assert len(group.prunable) == 4
    assert found.group_of("words.weight", 0) is None


def test_the_words_of_an_embedding_tied_to_a_layer_stay_and_the_reason_names_both() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.words(x))
            return y.sum(-1)

    found = analyze_channels(traced(Tied(), torch.randint(0, 5, (2, 3))))
    features, words = found.groups
    assert len(features.prunable) == 4
    assert {unit.pinned for unit in words.units} == {
        "embedding of words (embedding) looks up head.weight by number, and linear of head (linear)"
        " shares it; to prune these channels, give each a weight of its own"
    }


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: F.conv2d(m.a(x), m.w * 2), "conv2d of conv2d_1 computes its weight"),
        (
            lambda m, x: F.linear(m.a(x).mean((2, 3)), m.v.relu()),
            "linear of linear computes its weight",
        ),
        (
            lambda m, x: F.conv2d(m.a(x), m.w, x[0, :2, 0, 0]),
            "conv2d of conv2d_1 computes one of its parameters",
        ),
    ],
)
def test_layers_that_compute_a_parameter_say_so(function: Forward, reason: str) -> None:
    parts = {"w": torch.randn(2, 4, 1, 1), "v": torch.randn(2, 4)}
    assert reason in reasons(image_graph(function, **parts))


@pytest.mark.parametrize(
    ("first", "second", "last", "sizes"),
    [
        (nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(6, 2, 1), (3, 8, 8)),
        (nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(6, 2, 1), (3, 8, 8)),
        (nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Conv2d(6, 2, 1), (3, 8, 8)),
        (nn.Conv1d(3, 4, 3), nn.ConvTranspose1d(4, 6, 3), nn.Conv1d(6, 2, 1), (3, 8)),
        (nn.Conv3d(3, 4, 3), nn.Conv3d(4, 6, 1), nn.Conv3d(6, 2, 1), (3, 4, 4, 4)),
    ],
)
def test_layers_without_a_batch_lose_channels_like_those_with_one(
    first: nn.Module, second: nn.Module, last: nn.Module, sizes: tuple[int, ...]
) -> None:
    x = torch.randn(sizes)
    gm = traced(randomized(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)), x)
    masked = Pipeline((CreateMasks(L1(), Global(0.5)), PropagateMasks())).run(gm)
    analysis = analyze_channels(masked)
    units = masked_atoms(masked, analysis)
    assert units
    pruned = Pipeline((RemoveChannels(),), RemoveChannels.requires).run(masked)
    expected = masked_output(masked, analysis, units, [x])
    torch.testing.assert_close(pruned(x), expected, rtol=1e-5, atol=1e-5)
