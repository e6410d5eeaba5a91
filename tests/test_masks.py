"""Channel masks are plain data that travels with the graph."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.errors import ConfigError, PassError
from qpc.masks import MASKED, clear_masks, masks, replace_masks, set_mask
from qpc.testing import traced


class Pair(nn.Module):
    """Two convolutions whose values are added."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c(self.a(x) + self.b(x))
        return y


def pair() -> torch.fx.GraphModule:
    return qpc.trace(Pair(), torch.randn(1, 3, 4, 4))


def marked(*channels: int, size: int = 4) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(channels)] = True
    return mask


def test_a_mask_is_found_again_also_in_a_copy() -> None:
    gm = pair()
    set_mask(gm, "a.weight", 0, marked(1))
    for graph in (gm, copy.deepcopy(gm)):
        ((name, axis, mask),) = masks(graph)
        assert (name, axis, mask.tolist()) == ("a.weight", 0, [False, True, False, False])
    clear_masks(gm)
    assert MASKED.check(gm) == "there is no channel mask"


def test_a_mask_that_does_not_fit_is_refused() -> None:
    message = (
        r"the mask of 'a.weight' along axis 0 must be bool\[4\], got torch.int64 of shape \(4,\)"
    )
    with pytest.raises(ValueError, match=message):
        set_mask(pair(), "a.weight", 0, torch.ones(4, dtype=torch.int64))


def test_replacing_masks_says_whether_anything_changed() -> None:
    gm = pair()
    new = {("a.weight", 0): marked(1)}
    assert replace_masks(gm, new)
    assert not replace_masks(gm, new)
    assert replace_masks(gm, {("b.weight", 0): marked(1)})
    assert [name for name, _, _ in masks(gm)] == ["b.weight"]


def test_forgetting_masks_says_whether_there_were_any() -> None:
    gm = pair()
    assert not clear_masks(gm)
    set_mask(gm, "a.weight", 0, marked())
    assert clear_masks(gm)
    assert not list(masks(gm))


@pytest.mark.parametrize(
    ("name", "axis", "remove", "message"),
    [
        ("nope", 0, torch.zeros(4, dtype=torch.bool), "has no parameter or buffer 'nope'"),
        (
            "weight",
            2,
            torch.zeros(4, dtype=torch.bool),
            "axis must be from 0 to 1 for .*, got 2",
        ),
        ("weight", 0, [True, False], "remove must be a tensor of bool, got list"),
    ],
)
def test_a_mask_of_the_wrong_kind_is_refused(
    name: str, axis: int, remove: Any, message: str
) -> None:
    gm = traced(nn.Linear(3, 4), torch.zeros(1, 3))
    with pytest.raises(ConfigError, match=message):
        set_mask(gm, name, axis, remove)
    with pytest.raises(PassError, match="set_mask needs a traced graph, got Linear"):
        set_mask(cast(Any, nn.Linear(3, 4)), "weight", 0, torch.zeros(4, dtype=torch.bool))
