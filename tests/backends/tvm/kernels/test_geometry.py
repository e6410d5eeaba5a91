"""Where pixels lie: the numbers are those of numpy's views."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.tvm.kernels.geometry import Conv2dDesc, Places, View

pytestmark = pytest.mark.tvm

SIZES = st.integers(1, 5)


@given(st.tuples(SIZES, SIZES, SIZES, SIZES), st.integers(0, 4), st.integers(0, 4), st.data())
def test_a_view_lies_where_a_slice_of_its_tensor_does(
    shape: tuple[int, int, int, int], before: int, after: int, data: st.DataObject
) -> None:
    share = ChannelSlice(before, before + shape[-1] + after) if before + after else None
    view = View(shape, share)
    numbers = np.arange(np.prod(view.type.shape)).reshape(view.type.shape)
    lies = numbers[..., before : before + shape[-1]]
    at = [data.draw(st.integers(0, extent - 1)) for extent in shape[:-1]]
    assert view.offset(*at) == lies[*at, 0]
    assert view.first == lies[0, 0, 0, 0]
    assert view.others == numbers.size - lies.size
    assert view.strides == tuple(stride // numbers.itemsize for stride in numbers.strides)


def test_a_value_alone_may_have_any_number_of_axes() -> None:
    assert View(()).type.shape == ()
    assert View((3, 4)).strides == (4, 1)


def test_a_part_of_a_share_begins_later() -> None:
    assert ChannelSlice(3, 20).part(4) == ChannelSlice(7, 20)


def test_outputs_of_a_share_follow_one_another_a_pixel_apart() -> None:
    desc = Conv2dDesc(2, 4, 5, 8, 6, (1, 1)).placed(ChannelSlice(2, 10))
    assert desc.output.shape == (2, 4, 5, 10)
    assert desc.places == Places(first=2, image=200, row=50, column=10)
    assert desc.places.follow(desc.oh, desc.ow)
