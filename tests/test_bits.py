"""Truth values are packed eight to the byte, in the one order that everything uses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpc.bits import pack_mask, unpack_mask


def test_a_packed_mask_has_one_bit_for_each_weight() -> None:
    mask = torch.tensor([[True, False, False], [False, False, False], [False, True, True]])
    assert pack_mask(mask).tolist() == [0b10000001, 0b1]


@given(st.lists(st.integers(0, 5), max_size=3), st.integers(0, 1000))
def test_a_mask_is_unpacked_as_it_was_packed(shape: list[int], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = pack_mask(mask)
    assert packed.numel() == -(-mask.numel() // 8)
    assert torch.equal(unpack_mask(packed, mask.shape), mask)


def test_refuses_to_pack_and_unpack_what_is_no_mask() -> None:
    with pytest.raises(ValueError, match=r"a mask must be bool, got torch\.float32"):
        pack_mask(torch.ones(3))
    with pytest.raises(ValueError, match=r"of 9 elements must be uint8\[2\], got torch\.uint8 of"):
        unpack_mask(torch.zeros(1, dtype=torch.uint8), (3, 3))
