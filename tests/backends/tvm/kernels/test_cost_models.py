"""What the cost models choose, at the real cost of sharing: a golden table, and what must hold.

The table has the time of every method for typical layers, so that whoever changes a cost sees in
which layers another plan is taken.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, ConvPlan, LayerConstants
from qpc.backends.tvm.kernels.conv.dense_conv import DenseConv
from qpc.backends.tvm.kernels.conv.dense_plan import DensePlan
from qpc.backends.tvm.kernels.conv.depthwise_plan import DepthwisePlan
from qpc.backends.tvm.kernels.conv.methods import plan_for, plans_of, price
from qpc.backends.tvm.kernels.conv.tile_plan import TilePlan
from qpc.backends.tvm.kernels.conv.winograd_plan import WinogradPlan
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.targets import TARGETS, Target
from tests.conftest import Golden

pytestmark = pytest.mark.tvm

METHODS = ("x86-64", "x86-64-avx2", "x86-64-avx512-vnni", "x86-64-amx")


@pytest.fixture(autouse=True, scope="module")
def sharing_is_free() -> None:
    """Not in these tests, which are about what it costs."""


def layer(
    size: int, c: int, o: int, kernel: int = 3, stride: int = 1, groups: int = 1, n: int = 1
) -> Conv2dDesc:
    """A convolution of square images, padded so that it keeps their size but for the stride."""
    pad = (kernel // 2,) * 4
    return Conv2dDesc(n, size, size, c, o, (kernel, kernel), (stride, stride), pad, groups=groups)


def part_of(desc: Conv2dDesc, *, zeros: float = 0.0, greatest: int = 127) -> Convolution:
    """The layer, with that share of its blocks of 16 x 4 weights zero."""
    rng = np.random.default_rng(0)
    weight = rng.integers(1, greatest + 1, (desc.o, desc.c // desc.groups, *desc.kernel), np.int8)
    for first in range(0, desc.o, 16):
        for channel in range(0, weight.shape[1], 4):
            if rng.random() < zeros:
                weight[first : first + 16, channel : channel + 4] = 0
    return Convolution(
        desc, LayerConstants(weight, np.zeros(desc.o, np.int32), np.ones(desc.o, np.float32))
    )


LAYERS = {
    "7x7, first of a network": part_of(layer(112, 3, 64, 7, 2)),
    "3x3, many pixels": part_of(layer(56, 64, 64)),
    "3x3, many channels": part_of(layer(7, 512, 512)),
    "3x3, stride": part_of(layer(28, 128, 128, stride=2)),
    "3x3, irregular": part_of(layer(15, 37, 51)),
    "3x3, images": part_of(layer(7, 128, 128, n=8)),
    "3x3, groups": part_of(layer(28, 64, 64, groups=4)),
    "1x1, many pixels": part_of(layer(56, 64, 256, 1)),
    "1x1, large inputs": part_of(layer(56, 256, 64, 1)),
    "1x1, many channels": part_of(layer(7, 960, 160, 1)),
    "1x1, of a microsecond": part_of(layer(7, 32, 32, 1)),
    "linear": part_of(layer(1, 512, 1000, 1)),
    "linear, four bits": part_of(layer(1, 2048, 1000, 1), greatest=7),
    "linear, four bits, rows": part_of(layer(1, 512, 1000, 1, n=64), greatest=7),
    "3x3, three quarters zero": part_of(layer(14, 256, 256), zeros=0.75),
    "1x1, a tenth zero": part_of(layer(14, 256, 256, 1), zeros=0.1),
}
DEPTHWISE = {
    "depthwise 3x3": layer(56, 96, 96, groups=96),
    "depthwise 5x5, stride": layer(14, 480, 480, 5, 2, groups=480),
    "depthwise 3x3, into a slice": layer(7, 16, 16, groups=16).placed(ChannelSlice(8, 40)),
    "depthwise, of microseconds": layer(7, 32, 32, groups=32),
}


def about(plan: ConvPlan) -> str:
    label = plan.label
    skips = f" kept {label.kept}" if label.skips else ""
    text = f"{label.kind} {label.pixels}x{label.vectors}{skips}"
    if isinstance(plan, DensePlan):
        nibbles = " four bits" if plan.nibbles else ""
        return f"{text}{nibbles} rows {plan.blocks.rows} parts {plan.blocks.parts}"
    assert isinstance(plan, TilePlan | WinogradPlan)
    cut = plan.cut
    return f"{text} images {cut.images} rows {cut.rows} parts {cut.parts}"


def rows_of(name: str, part: Convolution, target: Target) -> list[str]:
    isa = isa_for(target)
    rows = []
    for threads in (1, 2):
        rows.append(f"{name}: {target.name}, {threads} thread{'s' * (threads > 1)}")
        plans = plans_of(isa, part, threads)
        best = min(plans, key=price)
        rows += [
            f"  {'->' if plan is best else '  '} {about(plan)}: {plan.time:.6g}" for plan in plans
        ]
    return rows


@pytest.mark.thorough
def test_the_plans_of_typical_layers_are_as_before(golden: Golden) -> None:
    text = []
    for name, part in LAYERS.items():
        for method in METHODS:
            text += rows_of(name, part, Target.parse(method))
    for name, desc in DEPTHWISE.items():
        for target in map(Target.parse, METHODS):
            for threads in (1, 2):
                plan = DepthwisePlan(isa_for(target), desc.shape, threads)
                cost = plan.row_cost(plan.tile)
                text.append(
                    f"{name}: {target.name}, {threads}: tile {plan.tile.pixels}x"
                    f"{plan.tile.merged} rows {plan.blocks.rows}: {cost:.6g} per row"
                )
    golden("plans", "\n".join(text))


def all_plans(desc: Conv2dDesc, target: str, threads: int) -> dict[type, ConvPlan]:
    found = plans_of(isa_for(Target.parse(target)), part_of(desc), threads)
    return {type(plan): plan for plan in found}


@pytest.mark.parametrize("target", METHODS)
@pytest.mark.parametrize("threads", [1, 2])
def test_more_work_costs_more(target: str, threads: int) -> None:
    base = layer(14, 64, 64)
    less = all_plans(base, target, threads)
    larger = {
        "inputs": replace(base, c=128),
        "outputs": replace(base, o=128),
        "rows": replace(base, h=28),
        "columns": replace(base, w=28),
        "images": replace(base, n=2),
    }
    for change, desc in larger.items():
        more = all_plans(desc, target, threads)
        assert less.keys() == more.keys()
        for method, plan in less.items():
            assert 1.4 * plan.time < more[method].time < 2.7 * plan.time, (change, method)


@pytest.mark.parametrize("target", METHODS)
def test_two_threads_share_what_is_large_and_are_never_slower(target: str) -> None:
    shared = []
    for size in (2, 4, 7, 14, 28, 56):
        desc = layer(size, 16, 16)
        alone, together = (all_plans(desc, target, threads) for threads in (1, 2))
        for method, plan in alone.items():
            assert together[method].time <= plan.time
        best = plan_for(isa_for(Target.parse(target)), part_of(desc), 2)
        shared.append(tasks(best) > 1)
    assert shared == sorted(shared)  # from some size on
    assert shared[0] is False
    assert shared[-1] is True
    large = layer(56, 64, 64)
    alone, together = (all_plans(large, target, threads) for threads in (1, 2))
    assert together[DenseConv].time < 0.55 * alone[DenseConv].time


def tasks(plan: ConvPlan) -> int:
    if isinstance(plan, DensePlan):
        return plan.tasks
    assert isinstance(plan, TilePlan | WinogradPlan)
    images = plan.shape.n if isinstance(plan, WinogradPlan) else plan.images
    rows = plan.shape.oh if isinstance(plan, WinogradPlan) else plan.rows
    return -(-images // plan.cut.images) * -(-rows // plan.cut.rows) * plan.cut.parts


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_layer_of_a_microsecond_stays_whole(target: Target) -> None:
    part = part_of(layer(7, 16, 16, 1))
    assert tasks(plan_for(isa_for(target), part, 2)) == 1


def test_the_more_is_zero_the_faster() -> None:
    isa = isa_for(Target.parse("x86-64-avx512-vnni"))
    desc = layer(14, 256, 256, stride=2)
    times = [plan_for(isa, part_of(desc, zeros=share), 1).time for share in (0, 0.5, 0.75, 0.95)]
    assert times == sorted(times, reverse=True)
    assert times[0] > 1.5 * times[2]


def test_registers_of_matrices_are_for_layers_with_many_pixels() -> None:
    isa = isa_for(Target.parse("x86-64-amx"))
    assert isinstance(plan_for(isa, part_of(layer(28, 128, 128)), 1), TilePlan)
    assert isinstance(plan_for(isa, part_of(layer(1, 64, 64, 1)), 1), DensePlan)


def test_fewer_multiplications_are_taken_where_weights_are_few_for_the_pixels() -> None:
    isa = isa_for(Target.parse("x86-64-avx512-vnni"))
    assert isinstance(plan_for(isa, part_of(layer(56, 64, 64)), 1), WinogradPlan)
    assert isinstance(plan_for(isa, part_of(layer(4, 512, 512)), 1), DensePlan)
