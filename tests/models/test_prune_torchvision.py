"""Every classifier of torchvision loses 30 % of its channels, and computes what it should."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch.fx import GraphModule

from qpc.capture.trace import trace
from qpc.channels.groups import ChannelAnalysis, analyze_channels
from qpc.channels.masks import spared_units
from qpc.meta import attribute
from tests.models.test_trace_torchvision import IMAGE_SIZE, LEFT_OUT, QUICK, SLOW, network
from tests.pruning.running import TOLERANCE, prune

pytestmark = pytest.mark.models

HERE_QUICK = {"squeezenet1_1"}  # small networks of the other kinds are in the conformance set
EACH = [
    pytest.param(name, id=name, marks=[] if name in HERE_QUICK else pytest.mark.slow)
    for name in sorted({*QUICK, *SLOW} - LEFT_OUT.keys())
]


@pytest.mark.parametrize("name", EACH)
def test_30_percent_of_the_channels_go(name: str, torchvision: ModuleType) -> None:
    size = IMAGE_SIZE.get(name, 64)
    gm = trace(network(torchvision, name, size), torch.randn(1, 3, size, size), check=False)
    analysis = analyze_channels(gm)
    pruned = prune(
        gm, (torch.randn(2, 3, size, size),), smallest(gm, analysis, 0.3), analysis=analysis
    )
    assert pruned.error <= TOLERANCE
    before, after = (sum(p.numel() for p in g.parameters()) for g in (gm, pruned.gm))
    assert after < 0.9 * before
    reasons = {why for g in analysis.groups for u in g.units if (why := u.pinned)}
    known = ("it reaches the output of the graph", *ALSO_PINNED.get(name, ()))
    assert {why for why in reasons if not why.startswith(known)} == set()


_ONE_UNIT = ("nothing else would be left of",)
_HEADS = ("mul of features",)
ALSO_PINNED = {
    # Each shuffle ties its two halves, and the blocks of a stage double the ties: in a narrow stage
    # fewer channels than that are left, and the last block's are one unit, which has to stay.
    "shufflenet_v2_x0_5": _ONE_UNIT,
    "shufflenet_v2_x1_0": _ONE_UNIT,
    # Channels go inside of heads, so the heads stay, and with them a scale and a bias for each.
    "swin_v2_t": _HEADS,
    "swin_v2_s": _HEADS,
    "swin_v2_b": _HEADS,
}
"""Beginnings of further reasons."""


def smallest(gm: GraphModule, analysis: ChannelAnalysis, ratio: float) -> frozenset[int]:
    """The units of each group whose producing weights have the smallest L1 norms."""
    norms = torch.zeros(len(analysis.atoms) + 1)
    for axis in analysis.axes:
        weight = attribute(gm, axis.name).detach()
        if axis.produces:
            norms.index_add_(0, axis.labels, weight.abs().transpose(0, axis.axis).flatten(1).sum(1))
    units: set[int] = set()
    for group in analysis.groups:
        ranked = sorted((unit.atom for unit in group.prunable), key=lambda a: float(norms[a]))
        units |= set(ranked[: int(ratio * len(ranked))])
    return frozenset(units - set(spared_units(analysis, units)))
