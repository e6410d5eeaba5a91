"""Channels are followed through permutations and reshapes that keep them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qpc.analysis.channel_paths import axis_before
from qpc.testing import traced
from tests.small_models import Call

X = torch.randn(2, 3, 4, 5)
# name: (what is done to X[N, 3, 4, 5], an axis of the result, the axis of X or None)
MOVES: dict[str, tuple[Callable[[Tensor], Tensor], int, int | None]] = {
    "permutation": (lambda x: x.permute(0, 2, 3, 1), 3, 1),
    "batch and rows together": (lambda x: x.permute(0, 2, 1, 3).reshape(-1, 3, 5), 2, 3),
    "places together": (lambda x: x.flatten(2), 1, 1),
    "places that were together": (lambda x: x.reshape(-1, 3, 2, 10), 1, 1),
    "channels split": (lambda x: x.reshape(-1, 3, 4, 5, 1), 3, 3),
    "channels mixed": (lambda x: x.reshape(-1, 4, 3, 5), 1, None),
    "another operator": (lambda x: x.relu(), 1, None),
}


@pytest.mark.parametrize("name", MOVES)
def test_the_axis_before_a_move(name: str) -> None:
    function, axis, expected = MOVES[name]
    gm = traced(Call(function), X)
    last = next(n for n in reversed(gm.graph.nodes) if n.op == "call_function")
    assert axis_before(last, axis) == expected
