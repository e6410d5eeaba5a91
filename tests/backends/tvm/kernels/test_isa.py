from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.isa import Isa, intrinsic, isa_for
from qpc.errors import UnsupportedTargetError
from qpc.target import TARGETS, Target

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_target_has_instructions(target: Target) -> None:
    isa = isa_for(target)
    assert isa.name == target.isa
    assert isa.lanes == target.vector_lanes


def test_an_intrinsic_that_llvm_does_not_know_is_an_error() -> None:
    with pytest.raises(
        UnsupportedTargetError, match=r"this LLVM has no intrinsic 'llvm\.x86\.nope'"
    ):
        intrinsic("llvm.x86.nope", "int32")


def test_interleaving_covers_every_channel_once(isa: Isa) -> None:
    channels = isa.interleaved_channels()
    assert channels.shape == (isa.depth, isa.lanes)
    np.testing.assert_array_equal(np.sort(channels, axis=None), np.arange(isa.lanes * isa.depth))
