"""The order in which channels come out of `interleave`, for vectors of one block and of more."""

from __future__ import annotations

import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.targets import Target

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("name", ["cortex-a53", "cortex-a76", "x86-64-sse4"])
def test_channels_of_one_block_stay_in_order(name: str) -> None:
    isa = isa_for(Target.parse(name))
    channels = isa.interleaved_channels()
    assert channels.reshape(-1).tolist() == list(range(isa.lanes * isa.depth))


def test_each_block_of_a_wider_vector_is_interleaved_by_itself() -> None:
    isa = isa_for(Target.parse("x86-64-avx512-vnni"))
    assert isa.interleaved_channels()[0].tolist() == [
        *(0, 1, 2, 3),
        *(16, 17, 18, 19),
        *(32, 33, 34, 35),
        *(48, 49, 50, 51),
    ]


def test_rows_take_turns_twice_for_four_of_them() -> None:
    assert isa_for(Target.parse("cortex-a76")).interleave_cost == 8
