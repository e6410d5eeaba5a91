"""Weights of layers whose values stay float: scales by group, and two integers to the byte."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpc.errors import PassError
from qpc.quant.config import WeightConfig
from qpc.quant.pairs import are_safe
from qpc.quant.stored_weights import pack, quantize_in_groups, require_stored, unpack

sizes = st.integers(0, 9)


@given(outputs=sizes, inputs=sizes, seed=st.integers(0, 99))
def test_what_is_packed_is_unpacked(outputs: int, inputs: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-8, 8, (outputs, inputs), dtype=torch.int8, generator=generator)
    packed = pack(weight)
    assert packed.shape == (outputs, (inputs + 1) // 2)
    assert torch.equal(unpack(packed, inputs), weight)


def test_the_even_input_is_in_the_low_bits() -> None:
    assert pack(torch.tensor([[1, -2, 7]], dtype=torch.int8)).tolist() == [[0xE1, 0x07]]


def test_each_group_has_the_scale_of_its_largest_weight_and_the_last_one_may_be_shorter() -> None:
    weight = torch.zeros(2, 70)
    weight[0, 31], weight[0, 32], weight[1, 69] = 7.0, -14.0, 3.5
    integers, scale = quantize_in_groups(weight, WeightConfig(bits=4, group=32))
    assert scale.shape == (2, 3)
    assert scale[0, :2].tolist() == [1.0, 2.0]
    assert scale[1, 2] == 0.5
    assert integers.shape == (2, 70)
    assert [int(integers[at]) for at in ((0, 31), (0, 32), (1, 69))] == [7, -7, 7]
    assert int(integers.abs().sum()) == 21


def test_without_groups_there_is_one_scale_for_each_output_or_for_all() -> None:
    weight = torch.tensor([[127.0, 2.0, 1.0], [0.0, -63.5, 0.0]])
    integers, scale = quantize_in_groups(weight, WeightConfig())
    assert scale.tolist() == [[1.0], [0.5]]
    assert integers.tolist() == [[127, 2, 1], [0, -127, 0]]
    safe, _ = quantize_in_groups(weight, WeightConfig(pairs="safe"))
    assert are_safe(safe)
    assert not are_safe(integers)
    _, scale = quantize_in_groups(weight, WeightConfig(per_channel=False))
    assert scale.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_a_layer_without_weights_has_none(shape: tuple[int, int]) -> None:
    integers, scale = quantize_in_groups(torch.zeros(shape), WeightConfig())
    assert integers.shape == shape
    assert scale.shape == (shape[0], 1)


def test_weights_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(PassError, match="the weight holds NaN or infinite values"):
        quantize_in_groups(torch.tensor([[float("nan")]]), WeightConfig())


INT8, PACKED, SCALE = (
    torch.zeros(2, 5, dtype=torch.int8),
    torch.zeros(2, 3).byte(),
    torch.ones(2, 1),
)


def test_both_forms_of_a_weight_are_known_by_their_types() -> None:
    require_stored(INT8, SCALE, torch.zeros(2), 5)
    require_stored(PACKED, SCALE, None, 5)


@pytest.mark.parametrize(
    ("weight", "scale", "bias", "text"),
    [
        (INT8.float(), SCALE, None, r"a stored weight is int8 or uint8 \[out, in\], got float32"),
        (INT8[0], SCALE, None, r"a stored weight is int8 or uint8 \[out, in\], got int8\[5\]"),
        (INT8[:, :4], SCALE, None, r"of 5 inputs has 5 columns, got int8\[2, 4\]"),
        (PACKED[:, :2], SCALE, None, r"of 5 inputs has 3 columns, got uint8\[2, 2\]"),
        (INT8, SCALE[:1], None, r"2 outputs need float32 scales, got float32\[1, 1\]"),
        (INT8, SCALE.double(), None, r"2 outputs need float32 scales, got float64\[2, 1\]"),
        (INT8, SCALE, torch.zeros(3), r"2 outputs need a float32 bias each, got float32\[3\]"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, text: str
) -> None:
    with pytest.raises(PassError, match=text):
        require_stored(weight, scale, bias, 5)
