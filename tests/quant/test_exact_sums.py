"""Integer sums by float kernels are exact on both sides of every limit of their proof."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qpc.ops.integer_convolution import (
    CONV2D_FLOAT,
    CONV_TRANSPOSE2D_FLOAT,
    multiplies_and_adds,
)
from qpc.quant.exact_sums import LARGEST_EXACT, exact_sums

LONGEST = LARGEST_EXACT // (127 * 255)  # 518 products of what qpc.quantize makes at the most


def integers(q: Tensor, weight: Tensor, bias: Tensor, zero_point: int) -> Tensor:
    """What a linear layer sums up, by integer arithmetic alone."""
    wide = (q.long() - zero_point) @ weight.long().T + bias.long()
    return ((wide + 2**31) % 2**32 - 2**31).int()


@pytest.mark.parametrize("length", [1, LONGEST, LONGEST + 1, 2 * LONGEST + 3, 5000])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_sums_of_the_greatest_products_are_exact(length: int, dtype: torch.dtype) -> None:
    ends = torch.iinfo(dtype)
    q = torch.full((3, length), ends.max, dtype=dtype)
    q[1, ::2], q[2, 0] = ends.min, ends.max - 1
    weight = torch.full((2, length), 127, dtype=torch.int8)
    weight[1, 1::2] = -127
    bias, zero_point = torch.tensor([1, -(2**30)], dtype=torch.int32), ends.min
    found = exact_sums(F.linear, q, weight, bias, zero_point, axis=-1)
    assert found.dtype is torch.int32
    assert torch.equal(found, integers(q, weight, bias, zero_point))


def test_weights_of_128_which_come_with_models_of_others_are_counted_as_such() -> None:
    q = torch.full((1, LONGEST), 255, dtype=torch.uint8)
    weight = torch.full((1, LONGEST), -128, dtype=torch.int8)
    weight[0, 0] = -127  # an odd sum, which float32 lacks beyond its limit
    found = exact_sums(F.linear, q, weight, torch.zeros(1, dtype=torch.int32), 0, axis=-1)
    assert found.item() == 255 * (1 - 128 * LONGEST)


def test_float32_is_used_up_to_the_limit_and_no_further() -> None:
    used: list[torch.dtype] = []

    def product(x: Tensor, w: Tensor) -> Tensor:
        used.append(x.dtype)
        return F.linear(x, w)

    def types(length: int, axis: int | None) -> list[torch.dtype]:
        used.clear()
        q = torch.full((1, length), 255, dtype=torch.uint8)
        weight = torch.full((1, length), 127, dtype=torch.int8)
        exact_sums(product, q, weight, torch.zeros(1, dtype=torch.int32), 0, axis=axis)
        return list(used)

    assert types(LONGEST, None) == [torch.float32]
    assert types(LONGEST + 1, None) == [torch.float64]
    assert types(LONGEST + 1, -1) == [torch.float32] * 2


def test_small_weights_make_long_sums_provable() -> None:
    used: list[int] = []

    def product(x: Tensor, w: Tensor) -> Tensor:
        used.append(w.shape[1])
        return F.linear(x, w)

    length = 20 * LONGEST
    q, weight = (
        torch.full((1, length), 255, dtype=torch.uint8),
        torch.ones(1, length).to(torch.int8),
    )
    found = exact_sums(product, q, weight, torch.zeros(1, dtype=torch.int32), 0, axis=-1)
    assert used == [length]
    assert found.tolist() == [[255 * length]]


def test_sums_beyond_32_bits_wrap_as_on_hardware() -> None:
    length = 70_000
    q, weight = torch.full((1, length), 255, dtype=torch.uint8), torch.full((1, length), 127)
    bias = torch.tensor([2**31 - 1], dtype=torch.int32)
    small = weight.to(torch.int8)
    found = exact_sums(F.linear, q, small, bias, 0, axis=-1)
    assert torch.equal(found, integers(q, small, bias, 0))


@pytest.mark.parametrize("batch", [1, 17])
@pytest.mark.parametrize(("channels", "groups"), [(64, 1), (64, 4), (8, 8)])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_convolutions_are_those_in_float64(
    batch: int, channels: int, groups: int, stride: int, dilation: int
) -> None:
    g = torch.Generator().manual_seed(batch + channels + groups)
    q = torch.randint(0, 256, (batch, channels, 9, 9), generator=g).to(torch.uint8)
    shape = (16, channels // groups, 3, 3)
    weight = torch.randint(-127, 128, shape, generator=g).to(torch.int8)
    bias = torch.randint(-(2**20), 2**20, (16,), generator=g).int()
    window = [stride] * 2, [1, 1], [dilation] * 2, groups
    found = CONV2D_FLOAT(q, weight, bias, torch.ones(16), *window, 3, None, None)
    exact = F.conv2d(q.double() - 3, weight.double(), bias.double(), *window)
    assert torch.equal(found, exact.float())


@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (80, 1), (8, 4)])
def test_transposed_convolutions_are_those_in_float64(channels: int, groups: int) -> None:
    g = torch.Generator().manual_seed(channels)
    q = torch.randint(0, 256, (2, channels, 6, 6), generator=g).to(torch.uint8)
    weight = torch.full((channels, 8 // groups, 3, 3), 127, dtype=torch.int8)
    bias = torch.randint(-(2**20), 2**20, (8,), generator=g).int()
    window = [2, 2], [1, 1], [1, 1], groups, [1, 1]
    found = CONV_TRANSPOSE2D_FLOAT(q, weight, bias, torch.ones(8), *window, 3, None, None)
    exact = F.conv_transpose2d(q.double() - 3, weight.double(), bias.double(), *window)
    assert torch.equal(found, exact.float())


def test_kernels_that_may_use_fractions_are_left_to_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, weight = torch.zeros(16, 8, 9, 9).to(torch.uint8), torch.zeros(8, 8, 3, 3).to(torch.int8)
    window = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
    assert multiplies_and_adds(q, weight, *window)
    kinds = torch._C._ConvBackend  # type: ignore[attr-defined]  # PyTorch's stubs lack it
    for other in (kinds.NnpackSpatial, kinds.Winograd3x3Depthwise):
        monkeypatch.setattr(torch._C, "_select_conv_backend", lambda *_, chosen=other: chosen)
        assert not multiplies_and_adds(q, weight, *window)
