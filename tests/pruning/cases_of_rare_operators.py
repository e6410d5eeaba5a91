"""Conformance set: operators and spellings that few networks use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.pruning.cases import Built, case, cases, conv, images, shuffled, tokens, weight


@case
def rolled_twice_along_one_axis() -> Built:
    return images(
        lambda m, x: m.z(torch.roll(m.a(x), (3, -2, 1), (1, 2, 1)) + m.b(x)), b=conv(3, 8)
    )


@case
def shuffled_twice_and_rolled() -> Built:
    return images(lambda m, x: m.z(shuffled(torch.roll(shuffled(m.a(x), 2), 1, -3), 4)))


@case
def pixels_shuffled_of_few_channels() -> Built:
    return images(lambda m, x: m.z(F.pixel_shuffle(m.a(x), 2)), z=conv(2, 2))


@case
def tiled_channels() -> Built:
    return images(lambda m, x: m.z(m.a(x).tile(2, 1, 1)), z=conv(16, 2))


@cases(
    {
        "argmax_over_space": lambda y: y.flatten(2).argmax(2).float(),
        "argmin_kept": lambda y: y.flatten(2).argmin(2, keepdim=True).flatten(1).float(),
        "topk_over_space": lambda y: y.flatten(2).topk(3, -1).values.mean(-1),
        "any_over_space": lambda y: (y > 0).any(3).any(2).float(),
    }
)
def picked_from(function: Callable[[Tensor], Tensor]) -> Built:
    return images(lambda m, x: m.z(function(m.a(x))), z=nn.Linear(8, 2))


@case
def argmax_over_channels_is_not_understood() -> Built:
    return images(lambda m, x: m.z(m.b(x) + m.a(x).argmax(1, keepdim=True).float()), b=conv(3, 8))


@case
def all_over_channels() -> Built:
    return images(lambda m, x: m.z(m.b(x) * (m.a(x) > -1.5).all(1, keepdim=True)), b=conv(3, 8))


@case
def sum_over_everything() -> Built:
    return images(lambda m, x: m.z(m.b(x)) + m.a(x).sum(), b=conv(3, 8))


@case
def sampled_at_computed_places() -> Built:
    def forward(m: Any, x: Tensor) -> Tensor:
        places = m.b(x).permute(0, 2, 3, 1).tanh()
        y: Tensor = m.z(F.grid_sample(m.a(x), places, align_corners=False))
        return y

    return images(forward, b=conv(3, 2))


@case
def product_with_a_bias() -> Built:
    def forward(m: Any, x: Tensor) -> Tensor:
        y: Tensor = m.z(torch.addmm(m.bias, m.a(x).mean((2, 3)), m.w))
        return y

    return images(forward, w=weight(8, 6), bias=weight(6), z=nn.Linear(6, 2))


@case
def batched_products_added() -> Built:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k = m.a(x), m.b(x)
        y: Tensor = m.z(torch.baddbmm(q, q @ k.transpose(1, 2), k))
        return y

    return tokens(forward, b=nn.Linear(8, 8))


@case
def einsum_with_dots() -> Built:
    return images(
        lambda m, x: m.z(torch.einsum("b...c,dc->b...d", m.a(x).permute(0, 2, 3, 1), m.w)),
        w=weight(6, 8),
        z=nn.Linear(6, 2),
    )


@case
def einsum_with_dots_on_both_sides() -> Built:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k = (y.unflatten(-1, (2, 4)).transpose(1, 2) for y in (m.a(x), m.b(x)))
        scores = torch.einsum("...ic,...jc->...ij", q, k).softmax(-1)
        y: Tensor = m.z(torch.einsum("...ij,...jc->...ic", scores, k).transpose(1, 2).flatten(2))
        return y

    return tokens(forward, b=nn.Linear(8, 8))


@case
def linear_with_a_transposed_weight() -> Built:
    return tokens(lambda m, x: m.z(F.linear(m.a(x), m.w.t())), w=weight(8, 6), z=nn.Linear(6, 2))


@case
def autoencoder_with_one_weight() -> Built:
    return tokens(lambda m, x: m.z(F.linear(torch.relu(m.a(x)), m.a.weight.t())))


@cases(
    {
        "atan2": torch.atan2,
        "where_with_a_number": lambda y, w: torch.where(y > w, y, 0.5),
    }
)
def two_values_joined_by(function: Callable[[Tensor, Tensor], Tensor]) -> Built:
    return images(lambda m, x: m.z(function(m.a(x), m.b(x))), b=conv(3, 8))
