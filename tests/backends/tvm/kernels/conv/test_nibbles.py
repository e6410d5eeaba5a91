from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.conv import nibbles
from qpc.backends.tvm.kernels.conv.conv2d import conv2d
from qpc.backends.tvm.kernels.conv.conv_plan import LayerConstants
from qpc.backends.tvm.kernels.conv.dense_conv import DenseConv
from qpc.backends.tvm.kernels.conv.linear import LinearDesc, linear
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.kernels.isa.choose import Isa, isa_for
from qpc.backends.tvm.kernels.kernel import Kernel
from qpc.targets import Target
from tests.backends.tvm.kernels.conv.test_conv2d import Array, Layer, Run

pytestmark = pytest.mark.tvm


BASE = Conv2dDesc(1, 1, 1, 64, 64, (1, 1), input_zero_point=7, output_zero_point=100)


def far_away(isa: Isa) -> Isa:
    """Fetching weights takes so long that they are packed for all instructions."""
    vectors = replace(isa.costs.vectors, fetch=1e6)
    return replace(isa, costs=replace(isa.costs, vectors=vectors))


def layer_of(k: int, o: int, groups: int = 1) -> Layer:
    """A layer over one pixel with weights of four bits."""
    layer = Layer(replace(BASE, c=k, o=o, groups=groups))
    layer.weight = np.random.default_rng(0).integers(-8, 8, layer.weight.shape, np.int8)
    layer.weight.flat[:2] = -8, 7
    return layer


def kernel_of(isa: Isa, layer: Layer, threads: int = 1) -> Kernel:
    return conv2d(isa, layer.desc, layer.constants, threads=threads)


@pytest.mark.parametrize(
    ("k", "o", "groups"),
    [(64, 64, 1), (40, 160, 1), (37, 53, 1), (5, 3, 1), (128, 48, 2)],
    ids=["even", "many outputs", "odd", "tiny", "groups"],
)
def test_equals_the_exact_result(isa: Isa, run: Run, k: int, o: int, groups: int) -> None:
    isa = far_away(isa)
    layer = layer_of(k, o, groups=groups)
    kernel = kernel_of(isa, layer)
    assert kernel.params[0].dtype == np.uint8
    np.testing.assert_array_equal(run(kernel, layer.x), layer.expected())


@pytest.mark.parametrize("weight", [-8, 7])
def test_nothing_saturates(isa: Isa, run: Run, weight: int) -> None:
    isa = far_away(isa)
    layer = layer_of(256, 16)
    layer.x[:], layer.weight[:] = 255, weight
    layer.multiplier[:] = 2.0**-12
    np.testing.assert_array_equal(run(kernel_of(isa, layer), layer.x), layer.expected())


def test_an_accumulator_may_use_all_32_bits(isa: Isa, run: Run) -> None:
    isa = far_away(isa)
    layer = layer_of(8, 4)
    layer.weight[:] = 7
    layer.bias[:] = [2**31 - 1 - 8 * 7 * 248, -(2**31) + 8 * 7 * 7, 2**30, -(2**30)]
    layer.multiplier[:] = 2.0**-24
    np.testing.assert_array_equal(run(kernel_of(isa, layer), layer.x), layer.expected())


def test_threads_share_the_work(isa: Isa, run: Run) -> None:
    isa = far_away(isa)
    layer = layer_of(64, 256)
    np.testing.assert_array_equal(run(kernel_of(isa, layer, 2), layer.x), layer.expected())


def test_pixels_share_unpacked_weights(isa: Isa, run: Run) -> None:
    isa = far_away(isa)
    layer = Layer(replace(BASE, n=2, h=3, w=9, c=20, stride=(1, 2)))
    layer.weight = np.clip(layer.weight, -8, 7)
    kernel = kernel_of(isa, layer)
    assert kernel.params[0].dtype == np.uint8
    np.testing.assert_array_equal(run(kernel, layer.x), layer.expected())


def test_linear_layers_of_one_row_take_half_the_memory(isa: Isa, run: Run) -> None:
    isa = far_away(isa)
    layer = layer_of(64, 32)
    weight = layer.weight.reshape(32, 64)
    desc = LinearDesc(1, 64, 32, 7, 100)
    packed = linear(isa, desc, LayerConstants(weight, layer.bias, layer.multiplier))
    wider = linear(isa, desc, LayerConstants(weight * 9, layer.bias, layer.multiplier))
    assert 2 * packed.params[0].nbytes == wider.params[0].nbytes
    result = run(packed, layer.x.reshape(1, 64))
    np.testing.assert_array_equal(result, layer.expected().reshape(1, 32))


def test_bytes_are_faster_where_weights_are_used_often(isa: Isa) -> None:
    weight, bias = np.ones((64, 64), np.int8), np.zeros(64, np.int32)
    constants = LayerConstants(weight, bias, np.ones(64, np.float32))
    kernel = linear(isa, LinearDesc(400, 64, 64), constants)
    assert kernel.params[0].dtype != np.uint8


def test_packing_is_chosen_for_layers_of_one_pixel() -> None:
    layer = layer_of(512, 512)
    for target in ("x86-64-avx2", "x86-64-avx512-vnni"):
        kernel = kernel_of(isa_for(Target.parse(target)), layer)
        assert kernel.params[0].nbytes == layer.weight.nbytes // 2


@pytest.mark.parametrize(("target", "packs"), [("x86-64-avx2", False), ("x86-64", True)])
def test_weights_that_are_widened_when_they_are_stored_are_not_packed(
    target: str, packs: bool
) -> None:
    layer = layer_of(64, 64)
    plan = DenseConv(far_away(isa_for(Target.parse(target))), layer.desc.shape, 1)
    assert plan.packing(layer.weight).nibbles is packs


def test_what_has_four_bits() -> None:
    assert nibbles.fits(np.array([-8, 0, 7], np.int8))
    assert not nibbles.fits(np.array([8], np.int8))
    assert not nibbles.fits(np.array([-9], np.int8))


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_packing_keeps_every_weight(units: int, pairs: int, seed: int) -> None:
    weight: Array = np.random.default_rng(seed).integers(-8, 8, (units, 2 * pairs, 5), np.int8)
    packed = nibbles.pack(weight)
    assert packed.shape == (units, pairs, 5)
    np.testing.assert_array_equal((packed & 15).astype(np.int8) - 8, weight[:, ::2])
    np.testing.assert_array_equal((packed >> 4).astype(np.int8) - 8, weight[:, 1::2])


@pytest.mark.parametrize(("steps", "expected"), [(1, 2), (2, 2), (7, 8)])
def test_even(steps: int, expected: int) -> None:
    assert nibbles.even(steps) == expected
