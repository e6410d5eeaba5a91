from __future__ import annotations

import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.isa import isa_for
from qpc.target import TARGETS, Target

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_target_has_instructions(target: Target) -> None:
    isa = isa_for(target)
    assert isa.name == target.isa
    assert isa.lanes == target.vector_lanes
