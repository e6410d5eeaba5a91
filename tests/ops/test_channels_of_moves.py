"""Data movement says itself where channels go; reshapes that split them leave whole slices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qpc.channels.groups import analyze_channels
from qpc.testing import traced
from tests.channels.channel_labels import Forward, image_graph, reasons, seen, token_graph
from tests.quantizing import Parts

MOVES: dict[str, tuple[Forward, tuple[int | None, str]]] = {
    "permute": (lambda m, x: m.a(x).permute(0, 2, 3, 1), (3, "abcd")),
    "flip": (lambda m, x: m.a(x).flip(1, 2), (1, "dcba")),
    "roll": (lambda m, x: m.a(x).roll(1, 1), (1, "dabc")),
    "slice": (lambda m, x: m.a(x)[:, 1:3], (1, "bc")),
    "slice with steps": (lambda m, x: m.a(x)[:, ::2], (1, "ac")),
    "select": (lambda m, x: m.a(x)[:, 2], (None, "c")),
    "select of space": (lambda m, x: m.a(x)[:, :, 2], (1, "abcd")),
    "repeat": (lambda m, x: m.a(x).repeat(1, 2, 1, 1), (1, "abcdabcd")),
    "tile": (lambda m, x: m.a(x).tile(2, 1, 1), (1, "abcdabcd")),
    "repeat each": (lambda m, x: m.a(x).repeat_interleave(2, 1), (1, "aabbccdd")),
    "concat": (lambda m, x: torch.cat([m.a(x), x, m.a(x)[:, :1]], 1), (1, "abcd...a")),
    "concat of space": (lambda m, x: torch.cat([m.a(x), m.a(x).flip(1)], 2), (1, "abba")),
    "pad": (lambda m, x: F.pad(m.a(x), (0, 0, 0, 0, 1, -1)), (1, "eabc")),
    "channels and space": (
        lambda m, x: m.a(x).flatten(1),
        (1, "a" * 8 + "b" * 8 + "c" * 8 + "d" * 8),
    ),
    "pixel shuffle": (lambda m, x: F.pixel_shuffle(m.a(x), 2), (None, "a")),
    "pixel unshuffle": (lambda m, x: F.pixel_unshuffle(m.a(x), 2), (1, "aaaabbbbccccdddd")),
    "channel shuffle": (lambda m, x: F.channel_shuffle(m.a(x), 2), (1, "aabb")),
    "split in two": (lambda m, x: m.a(x).unflatten(1, (2, 2)), (2, "ab")),
    "index": (lambda m, x: m.a(x)[:, [2, 0, 0]], (1, "caa")),
    "index of space": (lambda m, x: m.a(x)[:, :, [2, 0]], (1, "abcd")),
    "write": (lambda m, x: m.a(x).slice_scatter(m.a(x)[:, 2:], 1, 0, 2), (1, "cdcd")),
    "write every other": (
        lambda m, x: m.a(x).slice_scatter(m.a(x)[:, 1::2], 1, 0, 4, 2),
        (None, "a"),
    ),
    "expand": (lambda m, x: m.a(x)[:, :, :1].expand(-1, -1, 4, -1), (1, "abcd")),
}


@pytest.mark.parametrize("name", MOVES)
def test_channels_go_where_the_operator_moves_them(name: str) -> None:
    function, expected = MOVES[name]
    assert seen(image_graph(function)) == expected


def test_steps_tie_what_they_skip_to_what_they_pick() -> None:
    function: Forward = lambda m, x: torch.cat([m.a(x)[:, ::2], m.a(x)], 1)  # noqa: E731
    assert seen(image_graph(function)) == (1, "acaacc")


def test_an_only_channel_that_is_repeated_stays_and_makes_others() -> None:
    gm = image_graph(lambda m, x: m.a(x).mean(1, keepdim=True).expand(-1, 3, -1, -1))
    assert seen(gm) == (1, "efg")
    gm = image_graph(lambda m, x: m.a(x)[:, :1].expand(-1, 3, -1, -1))
    assert reasons(gm) == {"expand of expand repeats its only channel"}


def test_constants_can_have_any_channels() -> None:
    gm = image_graph(lambda m, x: m.a(x) + torch.zeros(1, 4, 1, 1))
    assert seen(gm) == (1, "abcd")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: m.a(x).roll(1), "roll of roll rolls over all axes at once"),
        (
            lambda m, x: m.a(x).index_select(1, (x[0, :2, 0, 0] > 0).long()),
            "index_select of index_select picks channels by computed indices",
        ),
        (
            lambda m, x: m.a(x)[:, torch.tensor([[2, 0], [1, 1]])],
            "index of index picks channels by computed indices",
        ),
        (
            lambda m, x: torch.repeat_interleave(m.a(x)[0], 2, output_size=64),
            "repeat_interleave of repeat_interleave is told the size of its result",
        ),
    ],
)
def test_what_cannot_be_followed_stays(function: Forward, reason: str) -> None:
    assert reason in reasons(image_graph(function))


def test_rows_of_a_table_stay_and_its_columns_are_channels() -> None:
    gm = token_graph(lambda m, x: m.a(x) * m.t[[2, 0, 1]], t=torch.randn(3, 4))
    assert seen(gm) == (2, "abcd")


def test_heads_are_split_off_but_channels_inside_them_go() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x).unflatten(2, (2, 2)).transpose(1, 2)
        return F.scaled_dot_product_attention(y, y, y)

    assert seen(token_graph(forward)) == (3, "ab")


def test_a_concat_along_another_axis_says_what_fixes_the_channels() -> None:
    layers = {"a": nn.Conv2d(3, 3, 1), "b": nn.Conv2d(3, 2, 1)}
    model = Parts(lambda m, x: m.b(torch.cat([m.a(x), x], 2)), **layers)
    first = analyze_channels(traced(model, torch.zeros(1, 3, 4, 4))).groups[0]
    assert {unit.pinned for unit in first.units} == {
        "cat of cat meets a tensor whose size is fixed"
    }
