"""Code for 32-bit ARM CPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.targets import Target
from tests.backends.tvm.kernels.isa.arm_code import assembly, loops_with, on_stack, share
from tests.backends.tvm.kernels.isa.test_neon import operators
from tests.emulation import assert_exact

pytestmark = [pytest.mark.tvm, pytest.mark.arm]


def test_the_inner_loop_of_a_convolution_is_products_and_loads() -> None:
    loops = loops_with(assembly(Target.parse("cortex-a7")), "vmull.s8")
    assert loops
    for loop in loops:
        assert not on_stack(loop)
        assert share(loop, "vmull.s8", "vmlal.s8", "vpadal.s16") > 0.55


def test_tiles_leave_room_in_half_as_many_registers() -> None:
    isa, wide = (isa_for(Target.parse(name)) for name in ("armv7-a", "aarch64"))
    assert (isa.registers, wide.registers) == (16, 32)
    assert isa.accumulators_fit(2, 3)
    assert not isa.accumulators_fit(2, 8)
    assert wide.accumulators_fit(2, 8)


@pytest.mark.slow
def test_every_operator_gives_the_bits_of_the_reference(tmp_path: Path) -> None:
    assert_exact(operators(), "armv7-a", tmp_path)
