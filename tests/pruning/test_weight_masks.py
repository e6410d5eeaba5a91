from __future__ import annotations

import copy
from functools import cache
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.fx import GraphModule

from qpc.bits import unpack_mask
from qpc.errors import ConfigError
from qpc.pruning.weight_masks import (
    WEIGHTS_MASKED,
    add_weight_mask,
    clear_weight_masks,
    mask_gradients,
    remask,
    weight_mask,
    weight_masks,
)
from qpc.testing import randomized, traced

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
KEEP = torch.tensor([[True, False, True, False], [False, False, True, True]])


@cache
def _linear() -> GraphModule:
    return traced(randomized(nn.Sequential(nn.Linear(4, 2))), X)


def linear() -> GraphModule:
    return copy.deepcopy(_linear())  # traced once: a test takes up to a hundred of them


def masked() -> GraphModule:
    gm = linear()
    add_weight_mask(gm, "0.weight", KEEP)
    return gm


def test_masked_weights_are_zero_at_once_and_the_others_are_as_before() -> None:
    before, after = linear().get_parameter("0.weight"), masked().get_parameter("0.weight")
    assert torch.equal(after, before * KEEP)


def test_masks_compose_by_and() -> None:
    gm = masked()
    add_weight_mask(gm, "0.weight", KEEP.roll(1, dims=1))
    mask = weight_mask(gm, "0.weight")
    assert mask is not None
    assert torch.equal(mask, KEEP & KEEP.roll(1, dims=1))


@given(st.lists(st.integers(0, 255), min_size=1, max_size=4), st.randoms())
def test_the_order_and_repetition_of_masks_do_not_matter(bits: list[int], random: object) -> None:
    keeps = [unpack_mask(torch.tensor([b], dtype=torch.uint8), (2, 4)) for b in bits]
    one, other = linear(), linear()
    for keep in keeps:
        add_weight_mask(one, "0.weight", keep)
    for keep in [*reversed(keeps), *keeps]:
        add_weight_mask(other, "0.weight", keep)
    assert torch.equal(one.get_parameter("0.weight"), other.get_parameter("0.weight"))
    first, second = dict(weight_masks(one)), dict(weight_masks(other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tells_whether_a_mask_changed_anything() -> None:
    gm = linear()
    assert not add_weight_mask(gm, "0.weight", torch.ones(2, 4, dtype=torch.bool))
    assert add_weight_mask(gm, "0.weight", KEEP)
    assert not add_weight_mask(gm, "0.weight", KEEP)
    gm.get_parameter("0.weight").data.fill_(1)
    assert add_weight_mask(gm, "0.weight", KEEP)


def test_a_mask_must_fit() -> None:
    with pytest.raises(ValueError, match=r"'0\.weight' must be bool\[2, 4\], got torch\.bool of"):
        add_weight_mask(linear(), "0.weight", KEEP[:1])
    with pytest.raises(ValueError, match=r"got torch\.float32 of shape \[2, 4\]"):
        add_weight_mask(linear(), "0.weight", KEEP.float())


def train(gm: GraphModule, *, after_each_step: bool) -> None:
    optimizer = torch.optim.AdamW(gm.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        gm(X).square().mean().backward()
        optimizer.step()
        if after_each_step:
            remask(gm)


def test_training_moves_masked_weights_unless_they_are_guarded() -> None:
    gm = masked()
    train(gm, after_each_step=False)
    assert WEIGHTS_MASKED.check(gm) == (
        "4 masked weights of '0.weight' are not 0; call remask after training"
    )
    remask(gm)
    assert WEIGHTS_MASKED.check(gm) is None


def test_masks_survive_training_by_remasking_after_each_step() -> None:
    gm = masked()
    before = gm.get_parameter("0.weight").detach().clone()
    train(gm, after_each_step=True)
    assert WEIGHTS_MASKED.check(gm) is None
    assert bool((gm.get_parameter("0.weight") != before)[KEEP].all())


def test_masks_survive_training_by_masked_gradients_until_these_are_removed() -> None:
    gm = masked()
    with mask_gradients(gm):
        train(gm, after_each_step=False)
        assert WEIGHTS_MASKED.check(gm) is None
    train(gm, after_each_step=False)
    assert WEIGHTS_MASKED.check(gm) is not None


def test_frozen_weights_need_no_hook_and_forgotten_masks_hold_nothing_back() -> None:
    gm = masked()
    gm.get_parameter("0.weight").requires_grad_(False)
    mask_gradients(gm)
    gm.get_parameter("0.weight").requires_grad_(True)
    mask_gradients(gm)
    clear_weight_masks(gm)
    train(gm, after_each_step=False)
    assert list(weight_masks(gm)) == []
    assert bool((gm.get_parameter("0.weight") != 0).all())


def test_masks_are_copied_and_loaded_with_the_graph() -> None:
    gm, other = masked(), masked()
    other.get_buffer("weight_masks.0.weight").fill_(True)
    other.load_state_dict(copy.deepcopy(gm).state_dict())
    mask = weight_mask(other, "0.weight")
    assert mask is not None
    assert torch.equal(mask, KEEP)


def test_a_mask_that_lost_its_weight_is_noticed() -> None:
    gm = masked()
    gm.get_submodule("0").weight = nn.Parameter(torch.zeros(3, 4))
    assert WEIGHTS_MASKED.check(gm) == (
        "the weight mask of '0.weight' has shape [2, 4], the weight [3, 4]"
    )
    del gm.get_submodule("0").weight
    assert WEIGHTS_MASKED.check(gm) == (
        "'0.weight' has a weight mask, but is no tensor of the graph"
    )


def test_a_weight_mask_of_no_parameter_or_of_no_tensor_is_refused() -> None:
    gm = traced(nn.Linear(3, 4), torch.zeros(1, 3))
    with pytest.raises(ConfigError, match="the graph has no parameter or buffer 'nope'") as caught:
        add_weight_mask(gm, "nope", torch.zeros(4, 3, dtype=torch.bool))
    assert caught.value.fix == "see dict(gm.named_parameters()) for the names"
    with pytest.raises(ConfigError, match="keep must be a tensor of bool, got list"):
        add_weight_mask(gm, "weight", cast(Any, [True]))
