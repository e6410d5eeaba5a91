"""The methods to compute a convolution, and which of them takes the least time.

A method gives its plans for a layer, or none if it cannot compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from qpc.backends.tvm.kernels.conv.conv_plan import Convolution, ConvPlan
from qpc.backends.tvm.kernels.conv.dense_conv import DenseConv
from qpc.backends.tvm.kernels.conv.tile_conv import TileConv
from qpc.backends.tvm.kernels.conv.tiling import Tile, Tuner
from qpc.backends.tvm.kernels.conv.winograd import WinogradConv
from qpc.backends.tvm.kernels.isa.base import Isa

Method: TypeAlias = Callable[[Isa, Convolution, int], Sequence[ConvPlan]]
"""(instructions, layer, threads) -> its best plans"""

METHODS: tuple[Method, ...] = (DenseConv.plans_for, TileConv.plans_for, WinogradConv.plans_for)


def plan_for(isa: Isa, layer: Convolution, threads: int) -> ConvPlan:
    """The plan that takes the least time, of all methods; memory for weights has its price.

    Those of Winograd take up to eight times as much. A MiB more has to save 6 % of the time, so
    that a model does not grow for little.
    """
    plans = plans_of(isa, layer, threads)
    return min(plans, key=price) if len(plans) > 1 else plans[0]


def tuned_plan(
    isa: Isa, layer: Convolution, threads: int, tuner: Tuner, name_of: Callable[[ConvPlan], str]
) -> ConvPlan:
    """The plan that the tuner wants, whom `name_of` tells the kernel that `plan_for` would give."""
    plan = plan_for(isa, layer, threads)
    variants: dict[Tile, ConvPlan] = {plan.label: plan}
    others: list[ConvPlan] = []
    for each in plans_of(isa, layer, threads):
        others += each.variants(layer.weight)
    for other in sorted(others, key=lambda other: other.time):
        variants.setdefault(other.label, other)
    tile = tuner(name_of(plan), list(variants))
    return plan if tile is None else variants[tile]


def plans_of(isa: Isa, layer: Convolution, threads: int) -> list[ConvPlan]:
    """The best plans of each method."""
    return [plan for method in METHODS for plan in method(isa, layer, threads)]


def price(plan: ConvPlan) -> float:
    """The time of a plan, and what its memory for weights is worth."""
    weight = plan.param_types[0]
    size = weight.size * np.dtype(weight.dtype).itemsize
    return plan.time * (1 + size / plan.isa.costs.memory_for_twice_the_time)
