from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.isa.amx import Amx
from qpc.backends.tvm.kernels.isa.matrices import WIDE, TileShape

pytestmark = pytest.mark.tvm


def test_the_configuration_is_what_the_cpu_reads() -> None:
    """Palette, then at byte 16 the bytes of a row and at byte 48 the rows of each register."""
    config = Amx().config(TileShape(WIDE, parts=2, vectors=2, pixels=13, run=24))
    assert config.dtype == np.uint8
    assert config[:16].tolist() == [1] + [0] * 15
    sums, x, weights = [64] * 4, [24] * 2, [64] * 2
    assert config[16:48].view(np.uint16).tolist() == sums + x + weights + [0] * 8
    assert config[48:].tolist() == [13] * 4 + [13] * 2 + [6] * 2 + [0] * 8


def test_sums_need_memory_once() -> None:
    """The CPU has registers for them, so memory only takes what is kept."""
    assert Amx().memory(TileShape(WIDE, 4, 1, 16, 64)) == 4 * 16 * 16
