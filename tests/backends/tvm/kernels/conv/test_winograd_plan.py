from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.conv.conv_layout import ConvLayout
from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, LayerConstants
from qpc.backends.tvm.kernels.conv.dense_plan import DensePlan
from qpc.backends.tvm.kernels.conv.filtering import FILTERINGS
from qpc.backends.tvm.kernels.conv.methods import plan_for, plans_of
from qpc.backends.tvm.kernels.conv.tile_plan import TilePlan
from qpc.backends.tvm.kernels.conv.winograd_plan import WinogradPlan
from qpc.backends.tvm.kernels.geometry import Conv2dDesc, ConvShape
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.targets import Target

pytestmark = pytest.mark.tvm

AVX2, VNNI, AMX = (
    isa_for(Target.parse(name)) for name in ("x86-64-avx2", "x86-64-avx512-vnni", "x86-64-amx")
)
SHAPE = ConvShape(1, 16, 16, 64, 64, (3, 3), padding=(1, 1, 1, 1))


def plans(**changes: Any) -> list[WinogradPlan]:
    shape = replace(SHAPE, **changes)
    weight = np.ones((shape.o, shape.c // shape.groups, *shape.kernel), np.int8)
    return WinogradPlan.all_for(ConvLayout(AVX2, shape, 1), weight)


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, [2, 4]),
        ({"padding": (0, 0, 0, 0), "h": 6, "w": 9}, [2, 4]),
        ({"h": 3, "w": 16}, [2]),
        ({"h": 1}, []),
        ({"kernel": (3, 5)}, []),
        ({"kernel": (1, 1)}, []),
        ({"stride": (1, 2)}, []),
        ({"dilation": (2, 1)}, []),
        ({"groups": 2}, []),
        ({"c": 4000, "o": 8}, [2, 4]),
    ],
    ids=str,
)
def test_it_is_for_three_by_three_without_strides(
    changes: dict[str, Any], sizes: list[int]
) -> None:
    assert [plan.out for plan in plans(**changes)] == sizes


def test_sums_must_fit() -> None:
    weight = np.full((8, 150, 3, 3), 127, np.int8)
    layout = ConvLayout(AVX2, replace(SHAPE, c=150, o=8), 1)
    assert not FILTERINGS[4].fits(weight)
    assert [plan.out for plan in WinogradPlan.all_for(layout, weight)] == [2]


def test_it_needs_instructions_for_words() -> None:
    plain = isa_for(Target.parse("x86-64"))
    assert WinogradPlan.all_for(ConvLayout(plain, SHAPE, 1), np.ones((64, 64, 3, 3), np.int8)) == []


@pytest.mark.parametrize(
    ("isa", "size", "channels", "kind"),
    [
        (AVX2, 56, 64, "winograd-4"),
        (AVX2, 28, 128, "winograd-4"),
        (AVX2, 7, 512, "winograd-2"),  # the weights of 4x4 are too many for so few pixels
        (AVX2, 30, 4, "vectors"),  # transforms would take longer than what they save
        (VNNI, 56, 64, "winograd-4"),
        (VNNI, 14, 256, "vectors"),
        (AMX, 56, 64, "matrices"),
    ],
)
def test_the_cost_model_takes_it_where_it_pays(
    isa: Any, size: int, channels: int, kind: str
) -> None:
    desc = Conv2dDesc(1, size, size, channels, channels, (3, 3), padding=(1, 1, 1, 1))
    weight = np.full((channels, channels, 3, 3), 100, np.int8)
    weight[:, :, 0] = -100  # so that sums are small
    part = Convolution(
        desc, LayerConstants(weight, np.zeros(channels, np.int32), np.ones(channels, np.float32))
    )
    plan = plan_for(isa, part, 1)
    assert plan.label.kind == kind
    kinds = {"matrices": TilePlan, "vectors": DensePlan}
    assert isinstance(plan, kinds.get(kind, WinogradPlan))


@pytest.mark.parametrize("isa", [AVX2, VNNI, AMX])
def test_two_threads_take_little_more_than_half_the_time_whatever_the_method(isa: Any) -> None:
    desc = Conv2dDesc(1, 28, 28, 128, 128, (3, 3), padding=(1, 1, 1, 1))
    weight, bias = np.ones((128, 128, 3, 3), np.int8), np.zeros(128, np.int32)
    part = Convolution(desc, LayerConstants(weight, bias, np.ones(128, np.float32)))
    one, two = (plans_of(isa, part, threads) for threads in (1, 2))
    assert len(one) == len(two) >= 3
    for alone, shared in zip(one, two, strict=True):
        assert 0.45 <= shared.time / alone.time < 0.6


def test_memory_for_weights_must_bring_time() -> None:
    desc = Conv2dDesc(1, 14, 14, 256, 256, (3, 3), padding=(1, 1, 1, 1))
    weight, bias = np.ones((256, 256, 3, 3), np.int8), np.zeros(256, np.int32)
    part = Convolution(desc, LayerConstants(weight, bias, np.ones(256, np.float32)))
    plans = {plan.label.kind: plan for plan in plans_of(VNNI, part, 1)}
    assert plans["winograd-4"].time < 0.9 * plans["vectors"].time  # but for 4.5 MiB, not 0.6
    assert plan_for(VNNI, part, 1).label.kind == "vectors"


def test_small_weights_have_faster_instructions_but_not_as_fast() -> None:
    desc = Conv2dDesc(1, 56, 56, 64, 64, (3, 3), padding=(1, 1, 1, 1))
    weight, bias = np.ones((64, 64, 3, 3), np.int8), np.zeros(64, np.int32)
    part = Convolution(desc, LayerConstants(weight, bias, np.ones(64, np.float32)))
    assert plan_for(AVX2, part, 1).label.kind == "winograd-4"


@pytest.mark.parametrize(("isa", "saved"), [(AVX2, [5 / 9, 3 / 4]), (VNNI, [1 / 9, 1 / 2])])
def test_it_knows_what_it_saves(isa: Any, saved: list[float]) -> None:
    layout = ConvLayout(isa, SHAPE, 1)
    found = WinogradPlan.all_for(layout, np.ones((64, 64, 3, 3), np.int8))
    assert [plan.saved for plan in found] == pytest.approx(saved)


def test_places_are_an_odd_number_of_cache_lines_apart() -> None:
    for plan in plans(c=62):
        line = plan.isa.costs.line_bytes
        assert plan.place_inputs * 2 // line % 2 == 1
        assert plan.place_sums * 4 // line % 2 == 1
        assert plan.place_inputs >= plan.task_patches * plan.patch_row


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_have_equal_shares(threads: int) -> None:
    for out in FILTERINGS:
        plan = WinogradPlan(AVX2, replace(SHAPE, n=2, h=24), threads, out)
        cut = plan.cut
        tasks = -(-2 // cut.images) * -(-24 // cut.rows) * cut.parts
        assert tasks % threads == 0


def test_small_images_share_a_task() -> None:
    small = WinogradPlan(AVX2, replace(SHAPE, n=8, h=7, w=7), 1)
    assert small.cut.images > 1
    large = WinogradPlan(AVX2, replace(SHAPE, n=8, h=112, w=112), 1)
    assert (large.cut.images, large.cut.rows < 112) == (1, True)


def test_weights_of_unused_lanes_and_channels_are_zero() -> None:
    plan = WinogradPlan(AVX2, replace(SHAPE, c=3, o=5), 1, 2)
    (packed,) = plan.pack_weight(np.ones((5, 3, 3, 3), np.int8))
    assert packed.shape == plan.param_types[0].shape == (1, 16, 2, 1, 8, 2)
    assert not packed[:, :, :, :, 5:].any()
    assert not packed[:, :, 1, :, :, 1].any()
    assert packed[0, 5, 0, 0, :5].tolist() == [[9, 9]] * 5  # the sum of all weights of a kernel
