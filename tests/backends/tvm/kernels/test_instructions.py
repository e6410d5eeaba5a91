from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.instructions import Isa, intrinsic
from qpc.errors import UnsupportedTargetError

pytestmark = pytest.mark.tvm


def test_an_intrinsic_that_llvm_does_not_know_is_an_error() -> None:
    with pytest.raises(
        UnsupportedTargetError, match=r"this LLVM has no intrinsic 'llvm\.x86\.nope'"
    ):
        intrinsic("llvm.x86.nope", "int32")


def test_interleaving_covers_every_channel_once(isa: Isa) -> None:
    channels = isa.interleaved_channels()
    assert channels.shape == (isa.depth, isa.lanes)
    np.testing.assert_array_equal(np.sort(channels, axis=None), np.arange(isa.lanes * isa.depth))
