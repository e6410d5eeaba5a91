"""Registers of other sizes than those of AMX: two pixels, two channels, eight bytes of each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.conv.conv_plan import Convolution
from qpc.backends.tvm.kernels.conv.methods import plan_for
from qpc.backends.tvm.kernels.conv.tile_plan import TilePlan
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.kernels.isa.base import Isa
from tests.backends.tvm.kernels.conv.test_conv2d import Layer, Run

pytestmark = [
    pytest.mark.tvm,
    pytest.mark.parametrize("target", ["small-matrices"], indirect=True),
]

BASE = Conv2dDesc(1, 5, 6, 8, 24, (3, 3), input_zero_point=7, output_zero_point=100)
LAYERS: dict[str, dict[str, Any]] = {
    "in place, with gaps": {},
    "padded, odd channels": {"c": 5, "o": 11, "padding": (1, 1, 1, 1)},
    "groups and strides": {"n": 2, "groups": 2, "o": 6, "stride": (2, 1)},
    "1x1, many steps": {"kernel": (1, 1), "c": 75, "o": 16},
    "1x1, fewer bytes than a register": {"kernel": (1, 1), "c": 3, "o": 1},
}


@pytest.fixture(autouse=True)
def matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers of matrices are taken wherever they can be, whatever they cost."""
    monkeypatch.setattr(TilePlan, "time", 0.0)


def plan_of(isa: Isa, layer: Layer) -> TilePlan:
    plan = plan_for(isa, Convolution(layer.desc, layer.constants), 1)
    assert isinstance(plan, TilePlan)
    return plan


@pytest.mark.parametrize("name", LAYERS)
def test_small_registers_compute_the_same(isa: Isa, run: Run, name: str) -> None:
    layer = Layer(replace(BASE, **LAYERS[name]))
    plan_of(isa, layer)
    np.testing.assert_array_equal(layer.run(isa, run, threads=2), layer.expected())


def test_several_registers_share_the_channels_of_a_vector(isa: Isa) -> None:
    plan = plan_of(isa, Layer(BASE))
    assert (isa.lanes, plan.sizes.lanes, plan.per_vector) == (4, 2, 2)
    assert plan.tile.columns == 2 * plan.tile.vectors
    assert plan.run == plan.sizes.run == 8
    weight, *_ = plan.pack_weight(np.ones((24, 8, 3, 3), np.int8))
    assert weight.shape == (plan.units, 9, plan.tile.columns, 1, 2, 8)
