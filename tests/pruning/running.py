"""Prune a graph through the passes, and compare it with the masked dense graph."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from qpc.base import PassContext
from qpc.channels.groups import ChannelAnalysis, analyze_channels
from qpc.channels.masks import masked_atoms
from qpc.facts import CORE_FORM
from qpc.masks import MASKED, set_mask
from qpc.meta import info
from qpc.passes.propagate_masks import PropagateMasks
from qpc.passes.remove_channels import RemoveChannels
from qpc.pipeline import Pipeline
from qpc.shapes import concrete_shapes
from qpc.types import TensorType, resolve
from tests.pruning_oracle import masked_output, random_units, worst_error

TOLERANCE = 1e-5  # of the largest output

Choice = Callable[[ChannelAnalysis, int], frozenset[int]]


def _survivors(analysis: ChannelAnalysis, seed: int) -> frozenset[int]:
    return random_units(analysis, 1.0, seed)


def _one_group(analysis: ChannelAnalysis, seed: int) -> frozenset[int]:
    prunable = [group for group in analysis.groups if group.prunable]
    if not prunable:
        return frozenset()
    group = random.Random(seed).choice(prunable)
    return frozenset(unit.atom for unit in group.prunable)


def _share(ratio: float) -> Choice:
    return lambda analysis, seed: random_units(analysis, ratio, seed)


CHOICES: dict[str, Choice] = {
    "50 %": _share(0.5),
    "10 %": _share(0.1),
    "90 %": _share(0.9),
    "a single survivor in each group": _survivors,
    "a whole group": _one_group,
}


@dataclass(frozen=True)
class Pruned:
    """What came of it: the graph, the units removed, the error by the largest output."""

    gm: GraphModule
    units: frozenset[int]
    error: float


def prune(
    gm: GraphModule,
    inputs: tuple[Tensor, ...],
    units: frozenset[int],
    *,
    heads: tuple[str, ...] = (),
    ctx: PassContext | None = None,
    analysis: ChannelAnalysis | None = None,
) -> Pruned:
    """Mask one channel of every unit, let the passes do the rest, and compare on one sample.

    analysis: that of `gm`, if it was made before.
    """
    analysis = analysis or analyze_channels(gm, heads=heads)
    masked = copy.deepcopy(gm)
    mark(masked, analysis, units)
    propagated = Pipeline((PropagateMasks(heads),), {CORE_FORM, MASKED}).run(masked, ctx)
    gone = masked_atoms(propagated, analysis)
    removal = Pipeline((RemoveChannels(heads),), RemoveChannels.requires)
    result = removal.run(propagated, ctx)
    one = tuple(x[:1] for x in inputs)
    expected = masked_output(gm, analysis, gone, one)
    with torch.no_grad():
        return Pruned(result, gone, worst_error(expected, result(*one)))


def mark(gm: GraphModule, analysis: ChannelAnalysis, units: frozenset[int]) -> None:
    """Mask each unit on the first parameter axis that has it, and only there."""
    left, first = set(units), analysis.axes[0]
    set_mask(gm, first.name, first.axis, torch.zeros(len(first.labels), dtype=torch.bool))
    for axis in analysis.axes:
        remove = torch.isin(axis.labels, torch.tensor(sorted(left), dtype=torch.int64))
        if bool(remove.any()):
            set_mask(gm, axis.name, axis.axis, remove)
            left -= set(axis.labels[remove].tolist())


def same_for_each_sample(gm: GraphModule, inputs: tuple[Tensor, ...]) -> float:
    """How much the outputs for two samples differ from those for each by itself."""
    with torch.no_grad():
        both = pytree.tree_leaves(gm(*inputs))
        single = [pytree.tree_leaves(gm(*(x[i : i + 1] for x in inputs))) for i in range(2)]
    errors = [0.0]
    for i in range(2):
        for all_, one in zip(both, single[i], strict=True):
            theirs = all_.unflatten(0, (-1, 2))[:, i].reshape(one.shape)
            errors.append(worst_error(one, theirs))
    return max(errors)


def wrong_shapes(gm: GraphModule) -> list[str]:
    """Nodes whose info does not tell the shape that their value has at batch size 2."""
    found = []
    for node, concrete in concrete_shapes(gm, 2).items():
        about = info(node)
        if isinstance(concrete, TensorType) and node.op != "output":
            shape = None if about.shape is None else resolve(about.shape, 2)
            if (shape, about.dtype) != (concrete.shape, concrete.dtype):
                found.append(f"{node.name}: {about.shape} is {concrete.shape}")
    return found
