"""Pruning before, between and after the steps of quantization gives the same integer model.

Channels that go are dead here: zero in every parameter that has them. So they decide neither the
range of any value nor the scale of any weight, and the order of pruning and quantization must not
show. (Live channels do show: an observer that has seen them keeps their ranges, and a weight that
was rounded has the scale of all its inputs. Calibrating again after pruning corrects the former.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qpc.base import Pass
from qpc.calls import arguments, qpc_ops
from qpc.channels.groups import ChannelAnalysis, analyze_channels
from qpc.channels.masks import masked_atoms
from qpc.facts import CORE_FORM
from qpc.hashing import fingerprint
from qpc.masks import MASKED
from qpc.meta import attribute, info
from qpc.passes import (
    Calibrate,
    ConvertToInteger,
    FakeQuantize,
    FoldBatchNorm,
    InsertObservers,
    MergeClamps,
    RemoveIdentities,
)
from qpc.passes.propagate_masks import PropagateMasks
from qpc.passes.remove_channels import RemoveChannels
from qpc.pipeline import Pipeline
from qpc.testing import randomized, traced
from tests.pruning.cases import Net, conv, conv_bn, shuffled
from tests.pruning.running import mark, wrong_shapes
from tests.pruning_oracle import random_units
from tests.quantizing import min_max

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
HEADS = ("*",)


def residual_net() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        y = torch.relu(y + m.c(m.b(y)))
        y = torch.relu(m.f(m.e(y)) + m.g(y))
        return m.z(y.mean((2, 3)))

    def plain(i: int, o: int, k: int = 3, **options: int) -> nn.Module:
        return nn.Sequential(conv(i, o, k, bias=False, **options), nn.BatchNorm2d(o))

    return Net(
        forward,
        a=conv_bn(3, 8),
        b=conv_bn(8, 8),
        c=plain(8, 8),
        e=conv_bn(8, 12, stride=2),
        f=plain(12, 12),
        g=plain(8, 12, 1, stride=2),
        z=nn.Linear(12, 5),
    )


def mobile_net() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        u = m.d(m.e(y))
        u = u * torch.nn.functional.hardsigmoid(m.s(u.mean((2, 3), keepdim=True)))
        return m.z((y + m.p(u)).mean((2, 3)))

    return Net(
        forward,
        a=conv_bn(3, 8),
        e=conv_bn(8, 16, 1),
        d=conv_bn(16, 16, groups=16),
        s=conv(16, 16, 1),
        p=nn.Sequential(conv(16, 8, 1, bias=False), nn.BatchNorm2d(8)),
        z=nn.Linear(8, 5),
    )


def concat_net() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        p, q = shuffled(torch.cat([m.a(x), m.b(x)], 1), 2).chunk(2, 1)
        return m.z(torch.cat([p, m.g(q)], 1).flatten(1))

    return Net(
        forward, a=conv_bn(3, 8), b=conv_bn(3, 8), g=conv_bn(8, 8, groups=2), z=nn.Linear(1024, 5)
    )


def token_net() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x).flatten(2).transpose(1, 2)
        y = y + m.w2(torch.relu(m.w1(y)))
        return m.z(y.mean(1))

    return Net(
        forward,
        a=nn.Conv2d(3, 8, 4, stride=4),
        w1=nn.Linear(8, 16),
        w2=nn.Linear(16, 8),
        z=nn.Linear(8, 5),
    )


def upsampling_net() -> nn.Module:
    """Transposed convolutions, also with groups that go whole, and with equal parts of them."""

    def forward(m: Any, x: Tensor) -> Any:
        y = torch.relu(m.u(m.a(x)))
        return m.z(torch.relu(m.w(m.b(torch.relu(m.v(y))))).mean((2, 3)))

    return Net(
        forward,
        a=conv_bn(3, 8, stride=2),
        u=nn.ConvTranspose2d(8, 12, 2, stride=2),
        v=nn.ConvTranspose2d(12, 6, 3, groups=2),
        b=nn.ConvTranspose2d(6, 16, 1),
        w=nn.ConvTranspose2d(16, 32, 2, groups=8, bias=False),
        z=nn.Linear(32, 5),
    )


NETWORKS = [residual_net, mobile_net, concat_net, token_net, upsampling_net]

FLOAT: tuple[Pass, ...] = (FoldBatchNorm(), RemoveIdentities())
OBSERVED: tuple[Pass, ...] = (*FLOAT, InsertObservers(min_max()))
CALIBRATED: tuple[Pass, ...] = (*OBSERVED, Calibrate([IMAGE]))
ROUNDED: tuple[Pass, ...] = (*CALIBRATED, FakeQuantize())
INTEGER: tuple[Pass, ...] = (*ROUNDED, ConvertToInteger(), MergeClamps())
BEFORE_DATA = {"folded": FLOAT, "observers that have seen nothing": OBSERVED}
AFTER_DATA = {"calibrated": CALIBRATED, "fake-quantized": ROUNDED}


@pytest.mark.every(12)
@pytest.mark.parametrize("stage", BEFORE_DATA)
@pytest.mark.parametrize("build", NETWORKS)
def test_pruning_before_calibration_gives_the_integer_model_of_pruning_first(
    build: Callable[[], nn.Module], stage: str
) -> None:
    first, later, _ = both_orders(build, BEFORE_DATA[stage])
    assert fingerprint(later) == fingerprint(first)


@pytest.mark.every(6)
@pytest.mark.parametrize("stage", AFTER_DATA)
@pytest.mark.parametrize("build", NETWORKS)
def test_pruning_after_calibration_gives_it_too_but_for_the_last_bit_of_the_ranges(
    build: Callable[[], nn.Module], stage: str
) -> None:
    """With more zeros to add up, float sums round otherwise, and so do the extremes seen."""
    first, later, dense = both_orders(build, AFTER_DATA[stage])
    assert layout(later) == layout(first)
    for name, tensor in first.named_buffers():
        other = later.get_buffer(name)
        if tensor.dtype is torch.int8:
            assert torch.equal(tensor, other)  # weights have scales of their own
        elif tensor.is_floating_point():
            torch.testing.assert_close(other, tensor, rtol=1e-5, atol=0)
        else:
            limit = tensor.abs().double() * 1e-5 + 1
            assert bool(((other.double() - tensor.double()).abs() <= limit).all())
    with torch.no_grad():
        difference = (first(IMAGE) - later(IMAGE)).abs().max()
    assert float(difference) < 1.01 * output_step(first)
    assert all_parameters(first) < 0.8 * all_parameters(dense)


@pytest.mark.every(6)
@pytest.mark.parametrize("build", NETWORKS)
def test_live_channels_too_when_calibration_comes_after_pruning(
    build: Callable[[], nn.Module],
) -> None:
    gm = traced(randomized(build()), IMAGE)
    first = through(INTEGER, prune(gm))
    between = prune(through(OBSERVED, gm))
    assert fingerprint(through(INTEGER[len(OBSERVED) :], between)) == fingerprint(first)


@pytest.mark.thorough
def test_live_channels_leave_their_ranges_behind_when_pruned_after_calibration() -> None:
    gm = traced(randomized(residual_net()), IMAGE)
    first = through(INTEGER, prune(gm))
    later = through(INTEGER[len(CALIBRATED) :], prune(through(CALIBRATED, gm)))
    assert layout(later) == layout(first)
    assert grids(later) != grids(first)
    assert all(x >= y for x, y in zip(grids(later)[:3], grids(first)[:3], strict=True))


def test_scales_of_weights_are_sliced_with_their_channels() -> None:
    gm = through(ROUNDED, traced(randomized(residual_net()), IMAGE))
    pruned = prune(gm)
    for node in pruned.graph.nodes:
        if node.target is qpc_ops.fake_quantize.default and node.args[0].op == "get_attr":
            weight, scale, zero_point = (attribute(pruned, str(n.target)) for n in node.args[:3])
            assert scale.shape == zero_point.shape == weight.shape[:1]


@pytest.mark.parametrize("build", [mobile_net, upsampling_net])
def test_a_fake_quantized_graph_computes_the_same_without_dead_channels(
    build: Callable[[], nn.Module],
) -> None:
    gm = through(ROUNDED, dead(traced(randomized(build()), IMAGE)))
    pruned = prune(gm)
    assert wrong_shapes(pruned) == []
    with torch.no_grad():
        torch.testing.assert_close(pruned(IMAGE), gm(IMAGE), rtol=0, atol=1e-5)


def test_an_integer_graph_is_not_pruned_and_says_why() -> None:
    analysis = analyze_channels(through(INTEGER, traced(randomized(token_net()), IMAGE)))
    assert not any(group.prunable for group in analysis.groups)


# --- helpers --------------------------------------------------------------------------------------


def both_orders(
    build: Callable[[], nn.Module], stage: tuple[Pass, ...]
) -> tuple[GraphModule, GraphModule, GraphModule]:
    """Integer models: pruned first, pruned at a stage, and not pruned."""
    gm, first, dense = without_a_stage(build)
    between = prune(through(stage, gm))
    assert wrong_shapes(between) == []
    return first, through(INTEGER[len(stage) :], between), dense


@cache
def without_a_stage(
    build: Callable[[], nn.Module],
) -> tuple[GraphModule, GraphModule, GraphModule]:
    """A graph with dead channels, and its integer models pruned first and not pruned.

    Made once for all stages: pipelines leave the graphs that they are given as they are.
    """
    torch.manual_seed(0)
    gm = dead(traced(randomized(build()), IMAGE))
    return gm, through(INTEGER, prune(gm)), through(INTEGER, gm)


def through(passes: tuple[Pass, ...], gm: GraphModule) -> GraphModule:
    assume = {CORE_FORM, *(passes[0].requires if passes else ())}
    return Pipeline(passes, assume).run(gm)


def chosen(gm: GraphModule) -> tuple[ChannelAnalysis, frozenset[int]]:
    analysis = analyze_channels(gm)
    return analysis, random_units(analysis, 0.4, seed=3)


def dead(gm: GraphModule) -> GraphModule:
    """Zero the channels that `prune` takes, in all their parameters."""
    analysis, units = chosen(gm)
    marks = analysis.marks(units)
    with torch.no_grad():
        for axis in analysis.axes:
            places = marks[axis.labels].nonzero().flatten()
            attribute(gm, axis.name).index_fill_(axis.axis, places, 0.0)
    return gm


def prune(gm: GraphModule) -> GraphModule:
    """Remove the units that are chosen in the traced graph; the same ones at every stage."""
    gm = copy.deepcopy(gm)
    analysis, units = chosen(gm)
    mark(gm, analysis, units)
    propagated = Pipeline((PropagateMasks(),), {CORE_FORM, MASKED}).run(gm)
    assert masked_atoms(propagated, analysis) == units
    return Pipeline((RemoveChannels(),), RemoveChannels.requires).run(propagated)


def all_parameters(gm: GraphModule) -> int:
    return sum(t.numel() for t in (*gm.parameters(), *gm.buffers()))


def layout(gm: GraphModule) -> list[tuple[str, object]]:
    return [(node.name, info(node).shape) for node in gm.graph.nodes]


def grids(gm: GraphModule) -> list[float]:
    return [grid.scale for node in gm.graph.nodes if (grid := info(node).qparams)]


def output_step(gm: GraphModule) -> float:
    """The scale of the integers behind the output."""
    (result,) = (node.args[0] for node in gm.graph.nodes if node.op == "output")
    assert isinstance(result, Node)
    assert result.target is qpc_ops.dequantize.default
    return float(arguments(result)["scale"])
