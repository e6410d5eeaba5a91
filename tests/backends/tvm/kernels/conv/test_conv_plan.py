"""Kinds of plans: one more is a class of its own, which nothing else has to know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.conv import methods
from qpc.backends.tvm.kernels.conv.conv2d import conv2d
from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, LayerConstants
from qpc.backends.tvm.kernels.conv.dense_conv import DenseConv
from qpc.backends.tvm.kernels.conv.tiling import Tile
from qpc.backends.tvm.kernels.isa.choose import Isa
from tests.backends.tvm.kernels.conv.test_conv2d import BASE, Layer, Run

pytestmark = pytest.mark.tvm


@dataclass(frozen=True)
class Quick(DenseConv):
    """A method that claims to take no time."""

    @property
    def time(self) -> float:
        return 0.0

    @property
    def label(self) -> Tile:
        return Tile(1, 1, kind="quick")


def test_a_method_that_takes_less_time_is_taken(
    isa: Isa, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "METHODS", (*methods.METHODS, Quick.plans_for))
    layer = Layer(BASE)
    kernel = layer.kernel(isa)
    assert (kernel.method, kernel.time) == ("quick 1x1", 0.0)
    np.testing.assert_array_equal(run(kernel, layer.x), layer.expected())


def test_a_kernel_says_by_which_method_it_computes(isa: Isa) -> None:
    kernel = conv2d(isa, BASE, Layer(BASE).constants)
    plan = methods.plan_for(isa, Convolution(BASE, Layer(BASE).constants), 1)
    assert kernel.method == str(plan.label)
    assert kernel.time == plan.time > 0


def test_joined_layers_have_the_outputs_of_all() -> None:
    one, two = (Layer(BASE, seed).constants for seed in (0, 1))
    joined = LayerConstants.joined([one, two])
    assert joined.weight.shape[0] == len(joined.bias) == len(joined.multiplier) == 2 * BASE.o
    np.testing.assert_array_equal(joined.weight[BASE.o :], two.weight)


def test_inputs_count_from_zero_behind_the_offset() -> None:
    weight, bias = np.full((2, 3, 1, 1), 4, np.int8), np.array([5, 6], np.int32)
    desc = BASE.__class__(1, 2, 2, 3, 2, (1, 1), input_zero_point=7)
    layer = Convolution(desc, LayerConstants(weight, bias, np.ones(2, np.float32)))
    assert layer.offset.tolist() == [5 - 7 * 12, 6 - 7 * 12]
