from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.stored.tiles import Tiles

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("registers", [8, 16, 32])
@given(m=st.integers(1, 100), o=st.integers(1, 100))
def test_a_tile_fits_the_registers(registers: int, m: int, o: int) -> None:
    tiles = Tiles.of(Isa("test", 4, registers), m, o)
    assert 1 <= tiles.rows <= m
    assert tiles.vectors == 1 or (tiles.rows + 1) * tiles.vectors + 1 <= registers
    widest = tiles.vectors in (4, -(-o // 4))
    assert widest or (tiles.rows + 1) * (tiles.vectors + 1) + 1 > registers


def test_weights_lie_in_the_order_in_which_tiles_read_them() -> None:
    tiles = Tiles(m=1, o=5, lanes=2, rows=1, vectors=2)
    weight = np.arange(15, dtype=np.int8).reshape(5, 3)
    packed = tiles.pack(weight, depth=2)
    # [vector][step][lane][input]
    assert packed.tolist() == [
        *(0, 1, 3, 4, 2, 0, 5, 0),
        *(6, 7, 9, 10, 8, 0, 11, 0),
        *(12, 13, 0, 0, 14, 0, 0, 0),
    ]
    assert tiles.pack_outputs(np.ones(5)).tolist() == [1, 1, 1, 1, 1, 0]
