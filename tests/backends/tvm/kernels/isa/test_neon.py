"""Code for 64-bit ARM CPUs: what is in the innermost loops, and its bits in an emulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from torch.fx import GraphModule

from qpc.backends.tvm.kernels.emit import Flat, bind, prim_func
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.backends.tvm.kernels.isa.neon import ByteProducts
from qpc.backends.tvm.kernels.kernel import TensorType
from qpc.targets import Target
from tests.backends.tvm.kernels.isa.arm_code import assembly, loops_with, on_stack, share
from tests.emulation import assert_exact
from tests.generators import IntegerGraph

pytestmark = [pytest.mark.tvm, pytest.mark.arm]

FORMS = ("aarch64", "aarch64-dotprod", "aarch64-i8mm")
"""A target of each set of instructions."""

_PRODUCTS = {
    "cortex-a53": (("smull", "smlal", "smlal2", "sadalp"), 0.75),
    "cortex-a72": (("smull", "smlal", "smlal2", "sadalp"), 0.75),
    "cortex-a55": (("sdot",), 0.75),
    "cortex-a76": (("sdot",), 0.75),
    "aarch64-i8mm": (("smmla",), 0.55),
}


@pytest.mark.parametrize("name", _PRODUCTS)
def test_the_inner_loop_of_a_convolution_is_products_and_loads(name: str) -> None:
    products, least = _PRODUCTS[name]
    loops = loops_with(assembly(Target.parse(name)), products[0])
    assert loops
    for loop in loops:
        assert not on_stack(loop)
        assert share(loop, *products) > least
        assert not loops_with("\n".join(loop), "eor", "sxtl", "ext", "dup")


def test_activations_are_multiplied_by_element_of_what_four_steps_load() -> None:
    for loop in loops_with(assembly(Target.parse("cortex-a76")), "sdot"):
        elements = {line[-3:] for line in loop if line.startswith("sdot")}
        assert elements == {"[0]", "[1]", "[2]", "[3]"}


def test_depthwise_convolutions_take_the_products_of_one_pixel() -> None:
    text = assembly(Target.parse("aarch64-i8mm"), 32, groups=32)
    assert "sdot" in text
    assert "smmla" not in text


def test_outputs_are_rounded_and_narrowed_by_conversions_that_saturate() -> None:
    text = assembly(Target.parse("cortex-a76"))
    assert all(name in text for name in ("fcvtns", "sqxtn2", "sqadd", "smax", "smin"))


def test_two_products_of_the_least_bytes_do_not_fit_16_bits() -> None:
    isa = isa_for(Target.parse("aarch64"))
    assert isinstance(isa, ByteProducts)
    small, least = np.array([-127, 127], np.int8), np.array([-128, 0], np.int8)
    assert isa.exact_for(small) == (isa,)
    (careful,) = isa.exact_for(least)
    assert (careful.dot_instructions, isa.dot_instructions) == (4, 3)


def test_activations_of_terms_from_a_list_reach_every_lane_of_both_halves() -> None:
    isa = isa_for(Target.parse("aarch64"))

    def body(x: Flat, y: Flat) -> None:
        y.store(0, isa.broadcast(bind(x.load(0, 4))), 16)

    tensors = [TensorType((size,), "int8") for size in (4, 16)]
    assert "[0, 0, 0, 0, 1, 1, 1, 1]" in str(prim_func("kernel", tensors, body))


def test_weights_are_arranged_as_halves_of_a_vector_are_multiplied() -> None:
    isa = isa_for(Target.parse("aarch64"))
    weight = np.arange(16, dtype=np.int8).reshape(1, 4, 4)
    wanted = [0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15]
    assert isa.arranged(weight).reshape(-1).tolist() == wanted


def operators() -> GraphModule:
    """Odd sizes and numbers of channels, leftovers of runs, and weights that are -128."""
    g = IntegerGraph(5)
    x = g.quantize(g.input(3, 9, 11))
    a = g.conv2d(x, 20, (3, 3), stride=(2, 2), padding=(1, 1), extreme=True)
    b = g.conv2d(a, 20, (3, 3), padding=(1, 1), groups=20, extreme=True)
    c = g.add(g.conv2d(b, 20, (1, 1), extreme=True), a)
    d = g.conv2d(g.lookup(c), 36, (3, 1), groups=4)
    pooled = g.cat(g.max_pool2d(d, (2, 2), (1, 1)), g.avg_pool2d(d, (2, 2), (1, 1)))
    up = g.conv_transpose2d(g.resize2d(pooled, 5, 9, linear=True), 6, (2, 2), stride=(2, 2))
    up = g.joined(g.conv2d(up, 6, (3, 3), padding=(1, 1), groups=6, extreme=True), up)
    up = g.joined(g.conv_transpose2d(up, 6, (3, 3), padding=(1, 1)), up)
    flat = g.reshape(g.clamp(g.joined(g.linear(up, 18), up)), -1, 6 * 10 * 18)
    return g.module(g.dequantize(g.linear(flat, 13)), g.mean(g.mul(d, d), (2, 3)))


@pytest.mark.every(2)
@pytest.mark.parametrize("name", [pytest.param(FORMS[0], marks=pytest.mark.slow), *FORMS[1:]])
def test_every_operator_gives_the_bits_of_the_reference(name: str, tmp_path: Path) -> None:
    assert_exact(operators(), name, tmp_path)
