"""Which layers have their sums in pairs, and how their tiles are chosen."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, LayerConstants
from qpc.backends.tvm.kernels.conv.dense_conv import DenseConv
from qpc.backends.tvm.kernels.conv.methods import plan_for
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.targets import Target

pytestmark = pytest.mark.tvm

ISA = isa_for(Target.parse("aarch64-i8mm"))


def layer(size: int = 14, channels: int = 64, zeros: int = 0) -> Convolution:
    desc = Conv2dDesc(1, size, size, channels, channels, (3, 3), padding=(1, 1, 1, 1), dtype="int8")
    weight = np.ones((channels, channels, 3, 3), np.int8)
    weight[:, :zeros] = 0
    numbers = np.zeros(channels)
    return Convolution(
        desc, LayerConstants(weight, numbers.astype(np.int32), numbers.astype(np.float32))
    )


def test_a_layer_of_many_pixels_has_pairs_of_them() -> None:
    plan = plan_for(ISA, layer(), 1)
    assert plan.isa.in_pairs
    assert plan.label.pixels % 2 == 0
    assert plan.param_types[0].shape[-2:] == (4, 8)


def test_all_tiles_have_an_even_number_of_pixels() -> None:
    (_, paired) = DenseConv.plans_for(ISA, layer(size=7), 1)
    tiles = [plan.label for plan in paired.variants(layer(size=7).weight)]
    assert tiles
    assert all(tile.pixels % 2 == 0 for tile in tiles)


def test_a_single_pixel_has_none() -> None:
    desc = Conv2dDesc(1, 1, 1, 64, 64, (1, 1), dtype="int8")
    numbers = np.ones(64)
    constants = LayerConstants(
        np.ones((64, 64, 1, 1), np.int8), numbers.astype(np.int32), numbers.astype(np.float32)
    )
    (plan,) = DenseConv.plans_for(ISA, Convolution(desc, constants), 1)
    assert not plan.isa.in_pairs


def test_layers_of_zeros_skip_them_by_single_pixels() -> None:
    plan = plan_for(ISA, layer(zeros=60), 1)
    assert not plan.isa.in_pairs
    assert plan.skipped > 0.9


def test_instructions_without_matrices_have_none() -> None:
    for name in ("aarch64", "aarch64-dotprod", "x86-64-avx2"):
        assert isa_for(Target.parse(name)).pairs is None
