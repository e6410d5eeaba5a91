from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.analysis.joint_grids import Observed, Range, joint_groups
from qpc.meta import info
from qpc.quant.config import ActivationConfig
from tests.quantizing import Parts, observed

IMAGE = torch.zeros(1, 2, 2, 2)
SETTINGS = ActivationConfig()


def layers(count: int) -> dict[str, nn.Module]:
    return {f"conv{i}": nn.Conv2d(2, 2, 1) for i in range(count)}


def graph(function: Callable[[list[Tensor]], object], count: int) -> GraphModule:
    """Values y0, y1, ... of as many convolutions, all of which something else reads too."""

    def forward(net: nn.Module, x: Tensor) -> object:
        values = [getattr(net, f"conv{i}")(x) for i in range(count)]
        return function(values), [value * 2 for value in values]

    return observed(Parts(forward, **layers(count)), IMAGE)


def joined(
    gm: GraphModule, ranges: dict[str, Range], narrowest: float = 0.25, **settings: ActivationConfig
) -> dict[str, Range]:
    """What becomes wider, by the name of the value; values without a given range have none."""
    names = {n.name: name for n in gm.graph.nodes if (name := info(n).observer)}
    found = {name: Observed((0.0, 0.0), SETTINGS) for name in names.values()}
    found |= {
        names[value]: Observed(range_, settings.get(value, SETTINGS))
        for value, range_ in ranges.items()
    }
    whole = {n: range_ for group, range_ in joint_groups(gm, found, narrowest) for n in group}
    return {
        value: whole[name]
        for value, name in names.items()
        if value in ranges and whole.get(name, ranges[value]) != ranges[value]
    }


def two() -> GraphModule:
    return graph(lambda y: torch.cat(y[:2], 1), 2)


def test_operands_take_the_range_of_all_that_meet_in_a_concat() -> None:
    ranges = {"conv2d": (0.0, 1.0), "conv2d_1": (-1.0, 0.5), "cat": (-1.0, 1.0)}
    assert joined(two(), ranges) == {"conv2d": (-1.0, 1.0), "conv2d_1": (-1.0, 1.0)}


def test_a_range_that_is_too_narrow_keeps_its_grid() -> None:
    ranges = {"conv2d": (0.0, 0.9), "conv2d_1": (0.0, 4.0), "cat": (0.0, 4.0)}
    assert joined(two(), ranges) == {}
    assert joined(two(), ranges, narrowest=0.2) == {"conv2d": (0.0, 4.0)}


def test_no_range_joins_another_one_above_a_share_of_one() -> None:
    ranges = {"conv2d": (0.0, 1.0), "conv2d_1": (0.0, 2.0), "cat": (0.0, 2.0)}
    assert joined(two(), ranges, narrowest=1.1) == {}


def test_other_settings_are_not_joined() -> None:
    ranges = {"conv2d": (0.0, 1.0), "conv2d_1": (0.0, 2.0), "cat": (0.0, 2.0)}
    assert joined(two(), ranges, conv2d=ActivationConfig(bits=4)) == {}


def test_concats_that_share_an_operand_share_a_grid() -> None:
    gm = graph(lambda y: (torch.cat([y[0], y[1]], 1), torch.cat([y[1], y[2]], 1)), 3)
    ranges = {"conv2d": 1.0, "conv2d_1": 1.5, "conv2d_2": 2.0, "cat": 1.5, "cat_1": 2.0}
    found = joined(gm, {name: (0.0, hi) for name, hi in ranges.items()})
    assert found == dict.fromkeys(("conv2d", "conv2d_1", "cat"), (0.0, 2.0))


def test_what_is_left_over_forms_a_group_of_its_own() -> None:
    gm = graph(lambda y: (torch.cat([y[0], y[1]], 1), torch.cat([y[1], y[2]], 1)), 3)
    ranges = {"conv2d": 1.0, "conv2d_1": 1.5, "conv2d_2": 20.0, "cat": 1.5, "cat_1": 20.0}
    found = joined(gm, {name: (0.0, hi) for name, hi in ranges.items()})
    assert found == {"conv2d": (0.0, 1.5)}


def test_values_that_only_add_up_are_not_joined() -> None:
    gm = graph(lambda y: y[0] + y[1], 2)
    assert joined(gm, {"conv2d": (0.0, 1.0), "conv2d_1": (0.0, 2.0), "add": (0.0, 2.0)}) == {}


def test_a_concat_in_float_joins_nothing() -> None:
    gm = graph(lambda y: torch.cat([y[0], y[1].softmax(1)], 1), 2)
    assert joined(gm, {"conv2d": (0.0, 1.0)}) == {}


ENDS = st.tuples(st.floats(-8, 0), st.floats(0.125, 8))


@pytest.mark.thorough
@given(ranges=st.lists(ENDS, min_size=5, max_size=5), narrowest=st.floats(0.1, 1.5))
def test_no_range_shrinks_and_none_grows_beyond_the_limit(
    ranges: list[Range], narrowest: float
) -> None:
    names = ("conv2d", "conv2d_1", "conv2d_2", "cat", "cat_1")
    before = dict(zip(names, ranges, strict=True))
    for name, (lo, hi) in joined(CHAIN, before, narrowest).items():
        old_lo, old_hi = before[name]
        assert lo <= old_lo
        assert hi >= old_hi
        assert old_hi - old_lo >= narrowest * (hi - lo)


CHAIN = graph(lambda y: (torch.cat([y[0], y[1]], 1), torch.cat([y[1], y[2]], 1)), 3)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_order_of_the_operands_does_not_matter(order: tuple[int, int]) -> None:
    gm = graph(lambda y: torch.cat([y[i] for i in order], 1), 2)
    ranges = {"conv2d": (0.0, 1.0), "conv2d_1": (-2.0, 0.5), "cat": (-2.0, 1.0)}
    assert set(joined(gm, ranges).values()) == {(-2.0, 1.0)}
