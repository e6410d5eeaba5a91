"""Pairs of weights: which these are, and points whose pairs are safe."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qpc.quant.config import WeightConfig
from qpc.quant.fixedpoint import quantize_weight, weight_scales
from qpc.quant.pairs import PAIR_LIMIT, are_safe, paired, safe_points, unpaired, widest_pairs

SHAPES = [(3, 6), (3, 5), (2, 4, 3, 2), (2, 3, 2, 3), (4, 1, 3, 3), (2, 5, 1, 1), (0, 4), (2, 0)]


def numbered(*shape: int) -> Tensor:
    return torch.arange(1, prod(shape) + 1).reshape(shape)


def test_the_limit_is_what_two_products_in_16_bits_allow() -> None:
    assert 255 * PAIR_LIMIT <= 2**15 - 1 < 255 * (PAIR_LIMIT + 1)


def test_pairs_are_of_neighbours_in_rows() -> None:
    assert paired(numbered(1, 5)).tolist() == [[[1, 2], [3, 4], [5, 0]]]
    # two channels at each of 1 x 2 places
    assert paired(numbered(1, 2, 1, 2)).tolist() == [[[1, 3], [2, 4]]]
    # three channels: the second place goes on where the first ends
    assert paired(numbered(1, 3, 1, 2)).tolist() == [[[1, 3], [5, 2], [4, 6]]]
    # one channel, 3 x 2 places: columns, each from its own beginning
    assert paired(numbered(1, 1, 3, 2)).tolist() == [[[1, 3], [5, 0], [2, 4], [6, 0]]]


@pytest.mark.parametrize("shape", SHAPES)
def test_pairs_can_be_taken_apart_again(shape: tuple[int, ...]) -> None:
    weight = numbered(*shape)
    assert torch.equal(unpaired(paired(weight), weight), weight)


def test_only_weights_of_one_sign_add_up() -> None:
    weight = torch.tensor([[100, 29], [-100, -28], [127, -127], [0, 0]])
    assert widest_pairs(weight).tolist() == [129, 128, 127, 0]
    assert [are_safe(row[None]) for row in weight] == [False, True, True, True]
    assert are_safe(torch.tensor([[-128, -1]], dtype=torch.int8)) is False


@pytest.mark.parametrize(
    ("places", "wanted"),
    [
        ((64.0, 65.0), (64.0, 64.0)),  # in the middle between two: halves to even
        ((65.0, 66.0), (64.0, 64.0)),
        ((-90.0, -60.0), (-79.0, -49.0)),
        ((127.0, 3.0), (126.0, 2.0)),
        ((500.0, 2.0), (126.0, 2.0)),
        ((127.0, 1.0), (127.0, 1.0)),
        ((127.0, -127.0), (127.0, -127.0)),
    ],
)
def test_unsafe_pairs_become_the_nearest_that_are_safe(
    places: tuple[float, float], wanted: tuple[float, float]
) -> None:
    exact = torch.tensor([places])
    found = safe_points(exact.round().clamp(-127, 127), exact)
    assert found.tolist() == [list(wanted)]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 10**6), st.floats(0.2, 1.0), st.booleans())
def test_points_are_always_safe_and_no_farther_than_they_must(
    shape: tuple[int, ...], seed: int, factor: float, ties: bool
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    weight = (weight * 40).round() / 2 if ties else weight
    scales = weight_scales(weight, WeightConfig(pairs="safe"))
    assert are_safe(quantize_weight(weight, scales, 8, safe=True))
    places = weight / (scales * factor).reshape(-1, *[1] * (weight.dim() - 1))
    nearest = places.round().clamp(-127, 127)
    found = safe_points(nearest, places)
    assert are_safe(found)
    assert torch.equal(found == 0, nearest == 0)
    kept = (paired(nearest).sum(2).abs() <= PAIR_LIMIT) | (paired(nearest).prod(2) <= 0)
    assert torch.equal(paired(found)[kept], paired(nearest)[kept])


@pytest.mark.parametrize("observer", ["min-max", "mse"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("shape", [(5, 8), (5, 7, 3, 3), (6, 1, 3, 3)])
def test_scales_leave_nothing_to_repair(
    observer: str, per_channel: bool, shape: tuple[int, ...]
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    config = {"observer": observer, "per_channel": per_channel}
    safe, free = (
        weight_scales(weight, WeightConfig.model_validate({**config, "pairs": pairs}))
        for pairs in ("safe", "any")
    )
    assert len(safe) == (5 if shape[0] == 5 else 6) ** per_channel
    points = quantize_weight(weight, safe, 8, safe=True)
    assert are_safe(points)
    if observer == "min-max":
        assert (safe >= free).all()
        assert torch.equal(points, quantize_weight(weight, safe, 8))
    if shape[1] > 1:  # with few pairs, none may be unsafe by chance
        assert not are_safe(quantize_weight(weight, free, 8))


def test_the_scale_of_least_squares_counts_what_is_repaired() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    weight[:, :2] = 4.0  # one pair that would cost all others a bit
    errors = []
    for observer in ("min-max", "mse"):
        config = WeightConfig.model_validate({"observer": observer, "pairs": "safe"})
        scales = weight_scales(weight, config)
        points = quantize_weight(weight, scales, 8, safe=True)
        assert are_safe(points)
        errors.append(float((points * scales[:, None] - weight).square().sum()))
    assert errors[1] <= errors[0]
